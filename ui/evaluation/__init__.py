"""The parts of the Evaluation page: what it reads, its figures, tables, maps and report."""
