"""Trains one run from start to end."""
