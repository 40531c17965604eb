"""Preparation of external texts for display, storage and sharing."""
