"""What several runs tell together: ranking, curves, samples, cost. Importing this package imports nothing heavy."""

import logging

logging.getLogger("matplotlib").setLevel(logging.WARNING)  # its account of the fonts it has found
