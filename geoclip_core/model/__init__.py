"""Models: backbones, context heads, coordinate heads, posteriors, calibration, checkpoints."""
