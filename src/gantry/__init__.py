"""Gantry trains, sweeps, measures and compares generative adversarial networks."""

from gantry.core.moved import accept_old_names

accept_old_names()
