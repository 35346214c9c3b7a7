"""Floor 1: the Earth. Knows nothing of photos or models."""
