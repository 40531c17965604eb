"""Texts from elsewhere, made fit to be shown, stored and shared."""
