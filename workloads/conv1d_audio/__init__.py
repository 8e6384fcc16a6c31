"""Convolutions along a waveform."""
