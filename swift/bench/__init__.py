"""Floor 4: speed and memory beside others, on the same rows, in the same run. Read ``compare.py`` first."""
