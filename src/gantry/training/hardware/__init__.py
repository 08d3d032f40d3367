"""Adapts training to the device: precision, memory, copies from a GPU."""
