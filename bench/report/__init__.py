"""A run folder as table, Markdown, CSV or JSON: the same folder always gives the same report.

store → frames (pandas) → summary (the JSON document) → table, markdown, export
"""
