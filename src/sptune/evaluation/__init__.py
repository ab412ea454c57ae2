"""How good the replies are: metrics of text, runs over a data set, significance, reports and plots."""
