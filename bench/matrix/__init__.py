"""Matrices: files to cells and comparisons."""
