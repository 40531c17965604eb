"""Export of merged weights from a study, with a check that they load."""
