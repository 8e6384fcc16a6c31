"""A small convolutional network on MNIST, framework-neutral: sizes, data, initial weights, what is evaluated.

conv 3×3×32 → ReLU → max-pool 2 → conv 3×3×64 → ReLU → max-pool 2 → dense 128 → ReLU → dense 10
loss = mean softmax cross-entropy;  SGD with momentum:  v ← μ v + g,  θ ← θ − α v
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from workloads import flops as counting
from workloads import images_of_digits, sampling
from workloads.contract import Value
from workloads.images_of_digits import INPUT, TARGET
from workloads.parameters import number, whole
from workloads.runtime import Array, Arrays
from workloads.training import Rule

__all__ = ["INPUT", "TARGET"]

PARAMETERS = ("learning_rate", "momentum", "evaluate_steps")
DEFAULTS: dict[str, Value] = {"learning_rate": 0.02, "momentum": 0.9, "evaluate_steps": 200}
NEEDS_DATA = True
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
    whole(values, "evaluate_steps", 1, 1_000_000)
    number(values, "learning_rate", 10)
    number(values, "momentum", 1)
    return values


def batch_size(parameters: Mapping[str, Value], asked: int) -> int:
    """The batch asked for, or the whole training set where that is smaller."""
    return min(asked, images_of_digits.TRAIN_EXAMPLES)


def flops(parameters: Mapping[str, Value], *, batch_size: int, phase: str) -> int:
    """Floating-point operations of one step, convolutions as direct sums."""
    macs = {
        name: prod(shape) * CONVOLUTION_SIZES.get(name, 1) ** 2 for name, shape in SHAPES.items() if "kernel" in name
    }
    first = macs["conv1/kernel"]
    return counting.of_step(macs=sum(macs.values()), first=first, batch_size=batch_size, phase=phase)


def optimizer(parameters: Mapping[str, Value]) -> Rule:
    """SGD with momentum."""
    rate, momentum = parameters["learning_rate"], parameters["momentum"]
    return Rule(name="sgd", learning_rate=float(rate), momentum=float(momentum))  # type: ignore[arg-type]


def initial_weights(parameters: Mapping[str, Value], seed: int) -> dict[str, Array]:
    """Glorot-uniform kernels and zero biases, float32, in the layouts of SHAPES."""
    return sampling.initial_weights(SHAPES, seed)


def batches(
    parameters: Mapping[str, Value], *, batch_size: int, count: int, seed: int, data: Path | None, first: int = 0
) -> dict[str, Array]:
    """`count` batches from `first` on.

    returns  images (count, batch, 28, 28, 1) float32 in [0, 1], labels (count, batch) int64
    """
    found = images_of_digits.batches(batch_size=batch_size, count=count, first=first, seed=seed, data=data)
    return {INPUT: found[INPUT][..., None], TARGET: found[TARGET]}


def evaluation_inputs(parameters: Mapping[str, Value], *, seed: int, data: Path | None) -> Array:
    """The 10,000 test images, float32 (10000, 28, 28, 1)."""
    return images_of_digits.test_images(data)[..., None]


def evaluate(
    parameters: Mapping[str, Value], *, outputs: Array, weights: Arrays, seed: int, data: Path | None
) -> dict[str, Any]:
    """Share of the test images whose largest logit is the label."""
    return {"test_accuracy": images_of_digits.test_accuracy(outputs, data)}
