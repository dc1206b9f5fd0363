"""Will it fit, and what should it be: what this machine is, and what to choose on it."""
