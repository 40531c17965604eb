"""Search spaces of evomerge: maps from the unit cube to merge coefficients, one per file."""
