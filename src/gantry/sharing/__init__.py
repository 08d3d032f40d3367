"""What leaves the house: a trained generator as files that work without it, with their model card."""
