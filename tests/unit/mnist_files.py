"""A few invented digits in MNIST's own files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from workloads.data import MNIST_FILES

EXAMPLES = {"train": 40, "test": 20}


def write_digits(folder: Path) -> Path:
    """40 images to train on and 20 to test with; each has one bright row that tells its label."""
    rng = np.random.default_rng(5)
    for split, (images_file, labels_file) in MNIST_FILES.items():
        labels = rng.integers(0, 10, EXAMPLES[split]).astype(np.uint8)
        images = rng.integers(0, 60, (EXAMPLES[split], 28, 28)).astype(np.uint8)
        images[np.arange(len(labels)), 4 + 2 * labels.astype(int)] = 255
        (folder / images_file).write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.tobytes())
        (folder / labels_file).write_bytes(struct.pack(">4B1I", 0, 0, 8, 1, len(labels)) + labels.tobytes())
    return folder
