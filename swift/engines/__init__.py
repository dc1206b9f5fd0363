"""Floor 3: requests become streams of pieces."""
