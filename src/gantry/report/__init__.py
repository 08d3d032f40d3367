"""What several runs tell together: ranking, curves, samples, cost. Importing this package imports nothing heavy."""
