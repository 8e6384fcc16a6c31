"""A stub: known work instead of a framework, to hold the harness to its own standard."""
