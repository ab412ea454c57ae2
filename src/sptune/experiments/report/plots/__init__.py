"""The plots of a comparison: plain figures and a theme in, a matplotlib figure out."""
