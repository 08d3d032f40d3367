"""How good generated images are: feature extractors, scores on their features, and the evaluator."""
