"""Optimizers, one algorithm per file; the file's name is the plug-in's name."""
