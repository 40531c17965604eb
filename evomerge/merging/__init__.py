"""Merging: methods, the engine that applies them, and checkpoints."""
