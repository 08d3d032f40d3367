"""Provides what every other package uses: errors, randomness, files, config checks and process handling."""
