"""Uses a trained generator: draws samples, interpolates in latent space, exports, registers and serves it."""
