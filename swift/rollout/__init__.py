"""Floor 4: steps whose completions are written while training runs."""
