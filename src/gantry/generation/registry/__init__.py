"""Registers generators in MLflow's model registry and serves them."""
