"""The metrics, each computed from features."""
