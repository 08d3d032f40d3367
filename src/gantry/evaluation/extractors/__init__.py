"""Feature extractors and the files of their weights."""
