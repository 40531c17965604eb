"""Merging: methods, the engine that applies them, checkpoints."""
