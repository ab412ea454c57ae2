"""Comparisons: methods over seeds and settings, run in any number of processes, resumable, and reported from the kept files."""
