"""Typed access to plain data read from files."""
