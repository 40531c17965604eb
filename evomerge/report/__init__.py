"""Tables and plots from a study."""
