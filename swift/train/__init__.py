"""Floor 4: the loop, its optimizer and schedule, checkpoints, and what a run reports."""
