"""One run on several devices: starts its ranks, exchanges their gradients and ends them together."""
