"""Tiny models to try merging on: one base, experts made from it, and the tasks they are scored on."""
