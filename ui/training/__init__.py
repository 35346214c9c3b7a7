"""The parts of the Train page: form, runs, live curves, comparison, results."""
