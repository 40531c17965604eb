"""Masks of deltas that are learned from data: for the method `masked`."""
