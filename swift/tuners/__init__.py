"""Floor 3: which weights learn. Builder -> Builder."""
