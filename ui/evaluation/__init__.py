"""The parts of the Evaluation page: choice of predictions, filters, panels, maps, photos."""
