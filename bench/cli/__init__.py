"""The command line: click, and calls of what does the work."""
