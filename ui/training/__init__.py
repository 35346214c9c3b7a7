"""The parts of the Train page: form, queue, processes, live curves, results."""
