"""Floor 2: conversations become tokens, each with its loss weight."""
