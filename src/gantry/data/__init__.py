"""Real images: where they come from, how they are kept, and in which order a run sees them."""
