"""Predictions of a dataset, and how good they are."""
