"""What people read of a run: its document (`bench.estimate.summary`) as table, Markdown, CSV, JSON; charts; views."""
