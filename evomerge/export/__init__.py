"""From a study to merged weights, written and loaded back once."""
