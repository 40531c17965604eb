"""Search spaces of evomerge: from a point of the unit cube to merge coefficients. One space, one file."""
