"""What workers need: locks, wheels, environments, images, data."""
