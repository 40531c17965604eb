"""Tools around merging without a search: align, repair, calibrate, soup."""
