"""A small convolutional network on MNIST, framework-neutral: sizes, data, initial weights, what is evaluated.

conv 3×3×32 → ReLU → max-pool 2 → conv 3×3×64 → ReLU → max-pool 2 → dense 128 → ReLU → dense 10
loss = mean softmax cross-entropy;  SGD with momentum:  v ← μ v + g,  θ ← θ − α v
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from workloads.contract import Value
from workloads.data import mnist
from workloads.runtime import Array, Arrays

PARAMETERS = ("learning_rate", "momentum", "evaluate_steps")
DEFAULTS: dict[str, Value] = {"learning_rate": 0.02, "momentum": 0.9, "evaluate_steps": 200}
NEEDS_DATA = True
INPUT = "images"
TARGET = "labels"
TRAIN_EXAMPLES = 60_000
CONVOLUTION_SIZES = {"conv1/kernel": 26, "conv2/kernel": 11}  # of the square that each gives out

# Kernels (height, width, in, out) and (in, out); images are (height, width, channel).
SHAPES: dict[str, tuple[int, ...]] = {
    "conv1/kernel": (3, 3, 1, 32),
    "conv1/bias": (32,),
    "conv2/kernel": (3, 3, 32, 64),
    "conv2/bias": (64,),
    "dense1/kernel": (5 * 5 * 64, 128),
    "dense1/bias": (128,),
    "dense2/kernel": (128, 10),
    "dense2/bias": (10,),
}


def parameters(given: Mapping[str, Value]) -> dict[str, Value]:
    """All parameters, the default where none is given. Raises ValueError with one sentence."""
    values = {**DEFAULTS, **given}
    if type(values["evaluate_steps"]) is not int or not 1 <= values["evaluate_steps"] <= 1_000_000:
        raise ValueError(f"evaluate_steps is {values['evaluate_steps']!r}; it must be a whole number from 1 to 1000000")
    for name in ("learning_rate", "momentum"):
        if type(values[name]) not in (int, float) or not 0 <= values[name] < 10:  # type: ignore[operator]
            raise ValueError(f"{name} is {values[name]!r}; it must be a number from 0 to 10")
        values[name] = float(values[name])  # type: ignore[arg-type]
    return values


def batch_size(parameters: Mapping[str, Value], asked: int) -> int:
    """The batch asked for, or the whole training set where that is smaller."""
    return min(asked, TRAIN_EXAMPLES)


def flops(parameters: Mapping[str, Value], *, batch_size: int, phase: str) -> int:
    """Floating-point operations of one step, a multiply-add counted as two, convolutions as direct sums.

    Forward, a kernel's size times the pixels that it gives out; ∂loss/∂kernel takes as many again, and ∂loss/∂input
    too, but for the first layer, whose input needs no gradient. Biases, ReLU, pooling, loss and update are left out.
    """
    macs = {
        name: prod(shape) * CONVOLUTION_SIZES.get(name, 1) ** 2 for name, shape in SHAPES.items() if "kernel" in name
    }
    forward = sum(macs.values())
    backward = 2 * forward - macs["conv1/kernel"] if phase == "train" else 0
    return 2 * batch_size * (forward + backward)


def learning_rate(parameters: Mapping[str, Value]) -> float:
    """The step α."""
    return float(parameters["learning_rate"])  # type: ignore[arg-type]


def momentum(parameters: Mapping[str, Value]) -> float:
    """μ."""
    return float(parameters["momentum"])  # type: ignore[arg-type]


def initial_weights(parameters: Mapping[str, Value], seed: int) -> dict[str, Array]:
    """Glorot-uniform kernels and zero biases, float32, in the layouts of SHAPES."""
    rng = np.random.default_rng([seed, 1])
    return {name: _glorot(rng, shape) if "kernel" in name else np.zeros(shape, np.float32)
            for name, shape in SHAPES.items()}  # fmt: skip


def batches(
    parameters: Mapping[str, Value], *, batch_size: int, count: int, seed: int, data: Path | None
) -> dict[str, Array]:
    """`count` batches in their order.

    returns  images (count, batch, 28, 28, 1) float32 in [0, 1], labels (count, batch) int64
    """
    images, labels = _split(data, "train")
    rng = np.random.default_rng([seed, 2])
    whole = len(images) // batch_size
    epochs = [rng.permutation(len(images))[: whole * batch_size] for _ in range(-(-count // whole))]
    order = np.concatenate(epochs).reshape(-1, batch_size)[:count]
    return {INPUT: _scaled(images[order]), TARGET: labels[order]}


def evaluation_inputs(parameters: Mapping[str, Value], *, seed: int, data: Path | None) -> Array:
    """The 10,000 test images, float32 (10000, 28, 28, 1)."""
    return _scaled(_split(data, "test")[0])


def evaluate(
    parameters: Mapping[str, Value], *, outputs: Array, weights: Arrays, seed: int, data: Path | None
) -> dict[str, Any]:
    """Share of the test images whose largest logit is the label."""
    labels = _split(data, "test")[1]
    return {"test_accuracy": float(np.mean(outputs.argmax(axis=1) == labels))}


def _glorot(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    field = int(np.prod(shape[:-2]))
    bound = np.sqrt(6 / (field * shape[-2] + field * shape[-1]))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def _scaled(images: Array) -> Array:
    return (images[..., None] / np.float32(255)).astype(np.float32)


@cache
def _split(data: Path | None, split: str) -> tuple[Array, Array]:
    if data is None:
        raise ValueError("mnist_cnn needs the MNIST files; run `bench data fetch`")
    return mnist(data, split)
