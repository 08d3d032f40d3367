"""Networks, losses, penalties, averaging and the training step."""
