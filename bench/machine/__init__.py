"""This machine: what it is, and what of it is free."""
