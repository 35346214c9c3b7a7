"""A synthetic dataset: drawn street scenes in ten US states."""
