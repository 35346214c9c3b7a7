"""Names of the context features, in a module that imports nothing: option trees need them too."""

KNOWN_FEATURES = ("climate", "month", "country", "state", "county", "city")
DEFAULT_FEATURES = ("climate", "month", "state", "county", "city")
PLACE_FEATURES = ("country", "state", "county", "city")  # from the largest to the smallest
