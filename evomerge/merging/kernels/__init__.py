"""Building blocks of merge methods: combinations, elections, selections, Gram matrices, decompositions."""
