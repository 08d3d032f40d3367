"""Gantry trains, sweeps, measures and compares generative adversarial networks."""
