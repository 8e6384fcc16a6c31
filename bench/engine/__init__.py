"""The container engine: its client, its words, whose container is whose, and what the dead left."""
