"""Executors: where trials run, in this process or on a cluster."""
