"""Measured comparisons: ratios in one run, on the machine at hand; a module each."""
