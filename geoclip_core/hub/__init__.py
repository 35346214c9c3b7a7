"""Load models by name, download them, and push them to a hub."""
