"""Lightning callbacks: logging, evaluation, checkpointing, divergence, diagnostics, film."""
