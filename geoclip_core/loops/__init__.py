"""Floor 4: embedding, training, evaluation, calibration, run folders."""
