"""Merge methods: one method, one file; the file's name is the plug-in's name."""
