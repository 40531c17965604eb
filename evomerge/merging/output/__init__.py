"""Output of merges: weights, configuration, manifest and card, in a folder that is complete or absent."""
