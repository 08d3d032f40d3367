"""A generator's latent space: interpolation, directions and projection of an image."""
