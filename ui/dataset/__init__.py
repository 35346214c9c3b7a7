"""The parts of the Dataset page: map and counts, checks, and the jobs that make datasets."""
