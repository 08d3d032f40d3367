"""Signals, locks, devices, ranks and child processes."""
