"""Uses a trained generator: draws samples, walks the latent space, exports, registers and serves it."""
