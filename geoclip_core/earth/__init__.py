"""Geography: the sphere, cells, place names and climate. Imports no other part of the package."""
