"""Compare TensorFlow with PyTorch on identical workloads, and say how sure one can be."""

__version__ = "0.1.0"
