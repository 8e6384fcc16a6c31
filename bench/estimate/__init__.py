"""From samples to figures and verdicts."""
