"""Metrics of replies: pure functions from strings to numbers, one file a family; `profile` computes them all."""
