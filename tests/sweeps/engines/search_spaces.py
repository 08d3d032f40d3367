"""The search space of the tests."""

RATE = "model.optimizer.lr=tag(log,interval(1e-6,1e-1))"
