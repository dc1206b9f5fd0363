"""Floor 2: which model it is, and how it gets into memory."""
