"""The parts of the Context heads page."""
