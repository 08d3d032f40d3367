"""One run on several devices: its processes (ranks), what they exchange, and how they end together."""
