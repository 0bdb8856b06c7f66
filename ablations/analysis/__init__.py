"""Turn records into numbers: statistics, tables per study, and comparisons of two folders of results."""
