"""Floor 0: types, files, configuration and errors. Knows nothing of the other rooms."""
