"""A residual network on small images."""
