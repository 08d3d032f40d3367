"""Loads and caches real images, orders their batches and arranges images as a grid."""
