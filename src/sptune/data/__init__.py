"""Dialogues: what they are, how files of them are read, checked and written, and how they become tokens."""
