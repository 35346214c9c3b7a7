"""Predictions of a dataset, and their evaluation."""
