"""Serving on vLLM: in this process, or behind HTTP replicas."""
