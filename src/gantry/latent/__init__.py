"""A trained generator's latent space: walks through it, its directions, and where in it a given image lies."""
