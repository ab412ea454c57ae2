"""Engines: dialogues in, replies and the prompts that spoke them out. No HTTP, no printing."""
