"""The first network of every tutorial, framework-neutral: sizes, data, initial weights, what is evaluated.

784 pixels → dense 512 → ReLU → dense 10
loss = mean softmax cross-entropy;  Adam (workloads.training.Rule)
"""

from __future__ import annotations

from collections.abc import Mapping
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

PARAMETERS = ("width", "learning_rate", "evaluate_steps")
# 4,685 steps of 64 are the tutorial's five epochs.
DEFAULTS: dict[str, Value] = {"width": 512, "learning_rate": 0.001, "evaluate_steps": 4685}
NEEDS_DATA = True
PIXELS, CLASSES = 784, 10


def parameters(given: Mapping[str, Value]) -> dict[str, Value]:
    """All parameters, the default where none is given. Raises ValueError with one sentence."""
    values = {**DEFAULTS, **given}
    whole(values, "width", 1, 65_536)
    whole(values, "evaluate_steps", 1, 1_000_000)
    number(values, "learning_rate", 10)
    return values


def shapes(parameters: Mapping[str, Value]) -> dict[str, tuple[int, ...]]:
    """Kernels (in, out)."""
    width = int(parameters["width"])  # type: ignore[arg-type]
    return {
        "dense1/kernel": (PIXELS, width),
        "dense1/bias": (width,),
        "dense2/kernel": (width, CLASSES),
        "dense2/bias": (CLASSES,),
    }


def batch_size(parameters: Mapping[str, Value], asked: int) -> int:
    """The batch asked for, or the whole training set where that is smaller."""
    return min(asked, images_of_digits.TRAIN_EXAMPLES)


def flops(parameters: Mapping[str, Value], *, batch_size: int, phase: str) -> int:
    """Floating-point operations of one step."""
    width = int(parameters["width"])  # type: ignore[arg-type]
    first = PIXELS * width
    return counting.of_step(macs=first + width * CLASSES, first=first, batch_size=batch_size, phase=phase)


def optimizer(parameters: Mapping[str, Value]) -> Rule:
    """Adam."""
    return Rule(name="adam", learning_rate=float(parameters["learning_rate"]))  # type: ignore[arg-type]


def initial_weights(parameters: Mapping[str, Value], seed: int) -> dict[str, Array]:
    """Glorot-uniform kernels and zero biases, float32."""
    return sampling.initial_weights(shapes(parameters), seed)


def batches(
    parameters: Mapping[str, Value], *, batch_size: int, count: int, seed: int, data: Path | None, first: int = 0
) -> dict[str, Array]:
    """`count` batches from `first` on: images (count, batch, 784) float32 in [0, 1], labels (count, batch) int64."""
    found = images_of_digits.batches(batch_size=batch_size, count=count, first=first, seed=seed, data=data)
    return {INPUT: found[INPUT].reshape(count, batch_size, PIXELS), TARGET: found[TARGET]}


def evaluation_inputs(parameters: Mapping[str, Value], *, seed: int, data: Path | None) -> Array:
    """The 10,000 test images, float32 (10000, 784)."""
    return images_of_digits.test_images(data).reshape(-1, PIXELS)


def evaluate(
    parameters: Mapping[str, Value], *, outputs: Array, weights: Arrays, seed: int, data: Path | None
) -> dict[str, Any]:
    """Share of the test images whose largest logit is the label."""
    return {"test_accuracy": images_of_digits.test_accuracy(outputs, data)}
