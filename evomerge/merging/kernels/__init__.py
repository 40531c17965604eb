"""What merge methods compute with: combinations, elections, selections, Gram matrices, decompositions."""
