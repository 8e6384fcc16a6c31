"""More than one run: what changed between two, and how long one should take."""
