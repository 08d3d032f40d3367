"""Checks, describes and instantiates a config. Importing this package imports no torch."""
