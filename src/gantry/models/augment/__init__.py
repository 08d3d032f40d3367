"""Augmentations that the discriminator sees real and generated images through, as functions of uniform numbers."""
