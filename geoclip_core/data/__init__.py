"""Floor 2: photos and tables of photos."""
