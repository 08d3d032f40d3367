"""Lightning callbacks: logging, evaluation, checkpoints, divergence, diagnostics, the film."""
