"""Alignment before or after a merge: matching hidden units to another model's, repairing their statistics."""
