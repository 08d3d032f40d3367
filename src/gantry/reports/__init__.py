"""Compares runs: ranking, curves, samples, cost. Importing this package imports nothing heavy."""

import logging

logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it reports each font file it finds
