"""What leaves: weights, configuration, manifest and card, in a folder that is complete or not there."""
