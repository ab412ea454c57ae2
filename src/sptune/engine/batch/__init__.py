"""Continuous batching: replies of any adapter and prompt that advance together, one token a step."""
