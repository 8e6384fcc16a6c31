"""What the workloads on MNIST share: batches of digits in their order, and the accuracy on the test images."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from workloads import evaluation
from workloads.data import mnist
from workloads.runtime import Array
from workloads.sampling import epochs

INPUT = "images"
TARGET = "labels"
TRAIN_EXAMPLES = 60_000


def batches(*, batch_size: int, count: int, seed: int, data: Path | None, first: int = 0) -> dict[str, Array]:
    """Batches from `first` on: images (count, batch, 28, 28) float32 in [0, 1], labels (count, batch) int64."""
    images, labels = split(data, "train")
    order = epochs(np.random.default_rng([seed, 2]), len(images), batch_size, count, first)
    return {INPUT: scaled(images[order]), TARGET: labels[order]}


def test_images(data: Path | None) -> Array:
    """The 10,000 test images, float32 (10000, 28, 28) in [0, 1]."""
    return scaled(split(data, "test")[0])


def test_accuracy(logits: Array, data: Path | None) -> float:
    """Share of the test images whose largest logit is the label."""
    return evaluation.accuracy(logits.argmax(axis=1), split(data, "test")[1])


def scaled(images: Array) -> Array:
    """0…255 to 0…1, float32."""
    return (images / np.float32(255)).astype(np.float32)


@cache
def split(data: Path | None, name: str) -> tuple[Array, Array]:
    """Images (n, 28, 28) uint8 and labels (n,). Raises ValueError: there are no files."""
    if data is None:
        raise ValueError("this workload needs the MNIST files; run `bench data fetch`")
    return mnist(data, name)
