"""Floor 3: backbones, context heads, coordinate heads, posteriors, checkpoints."""
