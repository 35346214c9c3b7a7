"""Synthetic data: drawn scenes of ten US states."""
