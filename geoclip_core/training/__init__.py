"""Train models: embeddings, training loops, run folders."""
