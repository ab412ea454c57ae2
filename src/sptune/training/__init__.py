"""Training: which pairs are similar, what is minimised, what is watched, and the loop (transformers.Trainer)."""
