"""A run on disk and in MLflow: its folder, checkpoints, generators, and how a user's word finds it."""
