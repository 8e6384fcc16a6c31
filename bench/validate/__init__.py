"""The harness held to its own standard: `bench validate`."""
