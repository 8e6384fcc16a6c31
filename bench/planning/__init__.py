"""What is measured next, in which order, and when it is enough (pure)."""
