"""Runs sweeps: each job as its own process tree, with launchers, a search and a summary table."""
