"""Training: embeddings, the loops, runs."""
