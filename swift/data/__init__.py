"""Floor 2: rows of every format become samples, and samples become packed batches."""
