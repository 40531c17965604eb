"""Finished runs as test data, and what the commands said of them when they were frozen. See README.md."""
