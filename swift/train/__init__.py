"""Floor 4: the loop, optimizers, schedules, checkpoints and reports."""
