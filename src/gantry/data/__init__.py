"""Real images: loads and caches them, orders their batches and shows them as a grid."""
