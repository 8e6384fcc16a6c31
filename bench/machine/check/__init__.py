"""`bench check`: what about this machine would spoil a measurement, how badly, and the cure of each."""
