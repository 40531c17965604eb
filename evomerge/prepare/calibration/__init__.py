"""Statistics of a model on calibration data, with which a merge method weights or fits its inputs."""
