"""The parts of the Dataset page: map, photos, health, and the jobs that make datasets."""
