"""Implementation of the commands; the command line itself is in `evomerge.cli`."""
