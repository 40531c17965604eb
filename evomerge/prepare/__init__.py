"""Preparation of models for a merge: alignment, statistics from calibration data, learned soups."""
