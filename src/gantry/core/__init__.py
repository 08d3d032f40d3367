"""What every package needs: errors, randomness, files, the config's checks and processes."""
