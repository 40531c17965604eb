"""Networks that stay in memory while candidates are merged into them."""
