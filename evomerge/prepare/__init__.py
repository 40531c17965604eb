"""What models are prepared with before a merge: alignment, calibration data, learned soups."""
