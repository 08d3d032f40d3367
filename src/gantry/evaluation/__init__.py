"""Measures generated images: feature extractors, metrics, protocols and their results."""
