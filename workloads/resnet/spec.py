"""A residual network on small images, framework-neutral: sizes, data, initial weights, what is evaluated.

conv 3×3×16 → norm → ReLU → three stages of n blocks, of 16, 32 and 64 channels → global average → dense 10
block:  ReLU(norm(conv 3×3(ReLU(norm(conv 3×3(x))))) + x);  the first of the second and third stage has a stride of 2,
and there norm(conv 1×1(x)) in the place of x.  depth = 6 n + 2
loss = mean softmax cross-entropy;  SGD with momentum:  v ← μ v + g,  θ ← θ − α v
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from workloads import evaluation, sampling
from workloads import flops as counting
from workloads.contract import Value
from workloads.parameters import number, whole
from workloads.runtime import Array, Arrays
from workloads.training import Rule

PARAMETERS = ("depth", "learning_rate", "momentum", "evaluate_steps")
DEFAULTS: dict[str, Value] = {"depth": 8, "learning_rate": 0.05, "momentum": 0.9, "evaluate_steps": 40}
NEEDS_DATA = False
INPUT = "images"
TARGET = "labels"
SIDE, CHANNELS, CLASSES = 32, 3, 10
STAGES = (16, 32, 64)
EPSILON = 1e-5  # of every batch norm
KEEP = 0.9  # of the moving figures at each step
# What float32 may cost here. Of a million activations without a pool behind them one or two lie so close to zero that
# rounding puts them on the other side of a ReLU, and each moves a gradient, a sum of terms that mostly cancel, by some
# thousandths: 1.8e-2 and, in the first losses, 2.2e-4 were the most over seeds 0 to 5, batches of 8, 16 and 64 and both
# frameworks; without such a flip both stay below 3e-5.
FP32_RTOL = {"gradients": 0.1, "losses": 2e-3}
TRAIN_EXAMPLES, TEST_EXAMPLES = 8192, 1000
_COARSE = 4  # an image's pattern is so many patches wide
_NOISE_VALUES = 2**18


@dataclass(frozen=True)
class Block:
    """One residual block: what goes in and out, and by which stride."""

    name: str
    channels_in: int
    channels: int
    stride: int

    @property
    def projects(self) -> bool:
        """Whether its shortcut is a convolution."""
        return self.channels_in != self.channels


def blocks(parameters: Mapping[str, Value]) -> Iterator[Block]:
    """In their order."""
    channels_in = STAGES[0]
    for stage, channels in enumerate(STAGES):
        for number_ in range((int(parameters["depth"]) - 2) // 6):  # type: ignore[arg-type]
            stride = 2 if stage and not number_ else 1
            yield Block(f"stage{stage + 1}/block{number_ + 1}", channels_in, channels, stride)
            channels_in = channels


def parameters(given: Mapping[str, Value]) -> dict[str, Value]:
    """All parameters, the default where none is given. Raises ValueError with one sentence."""
    values = {**DEFAULTS, **given}
    depth = whole(values, "depth", 8, 1202)
    if (depth - 2) % 6:
        raise ValueError(f"depth is {depth}; it must be 6 n + 2, such as 8, 14, 20, 32, 44, 56 or 110")
    whole(values, "evaluate_steps", 1, 1_000_000)
    number(values, "learning_rate", 10)
    number(values, "momentum", 1)
    return values


def shapes(parameters: Mapping[str, Value]) -> dict[str, tuple[int, ...]]:
    """Kernels (height, width, in, out) without biases, each with its norm; and (in, out)."""
    found = _normed("conv", (3, 3, CHANNELS, STAGES[0]))
    for one in blocks(parameters):
        found |= _normed(f"{one.name}/conv1", (3, 3, one.channels_in, one.channels))
        found |= _normed(f"{one.name}/conv2", (3, 3, one.channels, one.channels))
        if one.projects:
            found |= _normed(f"{one.name}/conv3", (1, 1, one.channels_in, one.channels))
    return found | {"head/kernel": (STAGES[-1], CLASSES), "head/bias": (CLASSES,)}


def _normed(name: str, kernel: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    parts = ("gamma", "beta", "moving_mean", "moving_variance")
    norm = name.replace("conv", "norm")
    return {f"{name}/kernel": kernel} | {f"{norm}/{part}": (kernel[-1],) for part in parts}


def batch_size(parameters: Mapping[str, Value], asked: int) -> int:
    """The batch asked for, or the whole training set where that is smaller."""
    return min(asked, TRAIN_EXAMPLES)


def flops(parameters: Mapping[str, Value], *, batch_size: int, phase: str) -> int:
    """Floating-point operations of one step, convolutions as direct sums."""
    side = SIDE
    first = 9 * CHANNELS * STAGES[0] * side**2
    macs = first + STAGES[-1] * CLASSES
    for one in blocks(parameters):
        side //= one.stride
        macs += side**2 * one.channels * (9 * one.channels_in + 9 * one.channels + one.projects * one.channels_in)
    return counting.of_step(macs=macs, first=first, batch_size=batch_size, phase=phase)


def optimizer(parameters: Mapping[str, Value]) -> Rule:
    """SGD with momentum."""
    rate, momentum = parameters["learning_rate"], parameters["momentum"]
    return Rule(name="sgd", learning_rate=float(rate), momentum=float(momentum))  # type: ignore[arg-type]


def initial_weights(parameters: Mapping[str, Value], seed: int) -> dict[str, Array]:
    """Glorot-uniform kernels, scales and moving variances of one, the rest zero, float32."""
    return sampling.initial_weights(shapes(parameters), seed)


def batches(
    parameters: Mapping[str, Value], *, batch_size: int, count: int, seed: int, data: Path | None, first: int = 0
) -> dict[str, Array]:
    """`count` batches from `first` on: images (count, batch, 32, 32, 3) in [0, 1], labels (count, batch) int64."""
    order = sampling.epochs(np.random.default_rng([seed, 4]), TRAIN_EXAMPLES, batch_size, count, first)
    images, labels = _drawn(order.ravel(), TRAIN_EXAMPLES, seed, 2)
    return {INPUT: images.reshape(*order.shape, SIDE, SIDE, CHANNELS), TARGET: labels.reshape(order.shape)}


def evaluation_inputs(parameters: Mapping[str, Value], *, seed: int, data: Path | None) -> Array:
    """1,000 further images of the same classes, float32 (1000, 32, 32, 3)."""
    return _drawn(np.arange(TEST_EXAMPLES), TEST_EXAMPLES, seed, 5)[0]


def evaluate(
    parameters: Mapping[str, Value], *, outputs: Array, weights: Arrays, seed: int, data: Path | None
) -> dict[str, Any]:
    """Share of the further images whose largest logit is the label."""
    labels = _drawn(np.arange(TEST_EXAMPLES), TEST_EXAMPLES, seed, 5)[1]
    return {"test_accuracy": evaluation.accuracy(outputs.argmax(axis=1), labels)}


def _drawn(which: Array, n: int, seed: int, stream: int) -> tuple[Array, Array]:
    """Images (k, 32, 32, 3) and labels (k,) of those examples: a class's pattern, shifted, under noise; 8 bits deep."""
    rng = np.random.default_rng([seed, stream])
    labels = rng.integers(0, CLASSES, n)
    shifts = rng.integers(0, SIDE, (n, 2))
    offsets = rng.integers(0, _NOISE_VALUES - SIDE * SIDE * CHANNELS, n)
    rows, columns = ((shifts[which, axis, None] + np.arange(SIDE)) % SIDE for axis in (0, 1))
    images = _patterns()[labels[which][:, None, None], rows[:, :, None], columns[:, None, :]]
    noise = _noise(seed)[offsets[which][:, None] + np.arange(SIDE * SIDE * CHANNELS)]
    grey = np.clip(images + noise.reshape(images.shape), 0, 255).astype(np.uint8)
    return grey.astype(np.float32) / np.float32(255), labels[which]


@cache
def _patterns() -> Array:
    """One pattern of coarse patches a class, (classes, 32, 32, 3), from 64 to 191; the same for every seed."""
    coarse = np.random.default_rng(20_261).integers(64, 192, (CLASSES, _COARSE, _COARSE, CHANNELS))
    return coarse.repeat(SIDE // _COARSE, axis=1).repeat(SIDE // _COARSE, axis=2)


@cache
def _noise(seed: int) -> Array:
    """Whole numbers with a standard deviation of 32, of which each image takes a stretch."""
    return np.round(np.random.default_rng([seed, 3]).standard_normal(_NOISE_VALUES) * 32).astype(np.int64)
