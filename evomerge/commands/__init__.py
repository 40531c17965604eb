"""What the commands do; the command line itself is `evomerge.cli`."""
