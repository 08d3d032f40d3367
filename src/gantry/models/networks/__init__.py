"""Generators (B, z_dim) -> (B, C, H, W) in [-1, 1] and discriminators (B, C, H, W) -> (B,) logits."""
