"""Photos and tables of photos, and the names of the context features.

This file imports nothing, so that command lines start quickly.
"""

KNOWN_FEATURES = ("climate", "month", "country", "state", "county", "city")
DEFAULT_FEATURES = ("climate", "month", "state", "county", "city")
PLACE_FEATURES = ("country", "state", "county", "city")  # from the largest to the smallest
