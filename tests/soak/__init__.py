"""Searches that are disturbed every few seconds for an hour, and must come out as if they had not been: `make soak`."""
