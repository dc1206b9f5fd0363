"""Floor 3: where a training step runs. Each backend is a ``core.types.TrainBackend``."""
