"""The published GeoCLIP model."""
