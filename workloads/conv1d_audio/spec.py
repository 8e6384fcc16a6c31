"""Convolutions along a waveform, framework-neutral: sizes, data, initial weights, what is evaluated.

samples (4000, 1): half a second at 8 kHz
conv 80×32, stride 4 → ReLU → max-pool 4 → conv 3×32 → ReLU → max-pool 4 → conv 3×64 → ReLU → max-pool 4
→ global average → dense 10
loss = mean softmax cross-entropy;  Adam (workloads.training.Rule)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from workloads import evaluation, sampling
from workloads import flops as counting
from workloads.contract import Value
from workloads.parameters import number, whole
from workloads.runtime import Array, Arrays
from workloads.training import Rule

PARAMETERS = ("learning_rate", "evaluate_steps")
DEFAULTS: dict[str, Value] = {"learning_rate": 0.002, "evaluate_steps": 200}
NEEDS_DATA = False
INPUT = "waveforms"
TARGET = "labels"
RATE_HZ, SAMPLES, CLASSES = 8000, 4000, 10
STRIDE = 4
PLACES = {"conv1/kernel": 981, "conv2/kernel": 243, "conv3/kernel": 58}  # of the sequence that each gives out

# Kernels (length, in, out) and (in, out).
SHAPES: dict[str, tuple[int, ...]] = {
    "conv1/kernel": (80, 1, 32),
    "conv1/bias": (32,),
    "conv2/kernel": (3, 32, 32),
    "conv2/bias": (32,),
    "conv3/kernel": (3, 32, 64),
    "conv3/bias": (64,),
    "head/kernel": (64, CLASSES),
    "head/bias": (CLASSES,),
}

TRAIN_EXAMPLES, TEST_EXAMPLES = 8192, 500
PITCHES_HZ = tuple(range(100, 260, 10))
# First, second and third formant of ten vowels: the averages over men of Peterson & Barney 1952, table II.
FORMANTS_HZ = (
    (270, 2290, 3010), (390, 1990, 2550), (530, 1840, 2480), (660, 1720, 2410), (730, 1090, 2440),
    (570, 840, 2410), (440, 1020, 2240), (300, 870, 2240), (640, 1190, 2390), (490, 1350, 1690),
)  # fmt: skip
BANDWIDTHS_HZ = (60, 90, 150)
_NOISE_VALUES = 2**18


def parameters(given: Mapping[str, Value]) -> dict[str, Value]:
    """All parameters, the default where none is given. Raises ValueError with one sentence."""
    values = {**DEFAULTS, **given}
    whole(values, "evaluate_steps", 1, 1_000_000)
    number(values, "learning_rate", 10)
    return values


def batch_size(parameters: Mapping[str, Value], asked: int) -> int:
    """The batch asked for, or the whole training set where that is smaller."""
    return min(asked, TRAIN_EXAMPLES)


def flops(parameters: Mapping[str, Value], *, batch_size: int, phase: str) -> int:
    """Floating-point operations of one step, convolutions as direct sums."""
    macs = {name: prod(shape) * PLACES.get(name, 1) for name, shape in SHAPES.items() if "kernel" in name}
    first = macs["conv1/kernel"]
    return counting.of_step(macs=sum(macs.values()), first=first, batch_size=batch_size, phase=phase)


def optimizer(parameters: Mapping[str, Value]) -> Rule:
    """Adam."""
    return Rule(name="adam", learning_rate=float(parameters["learning_rate"]))  # type: ignore[arg-type]


def initial_weights(parameters: Mapping[str, Value], seed: int) -> dict[str, Array]:
    """Glorot-uniform kernels and zero biases, float32."""
    return sampling.initial_weights(SHAPES, seed)


def batches(
    parameters: Mapping[str, Value], *, batch_size: int, count: int, seed: int, data: Path | None, first: int = 0
) -> dict[str, Array]:
    """`count` batches from `first` on: waveforms (count, batch, 4000, 1) in ± 1, labels (count, batch) int64."""
    order = sampling.epochs(np.random.default_rng([seed, 4]), TRAIN_EXAMPLES, batch_size, count, first)
    waveforms, labels = _drawn(order.ravel(), TRAIN_EXAMPLES, seed, 2)
    return {INPUT: waveforms.reshape(*order.shape, SAMPLES, 1), TARGET: labels.reshape(order.shape)}


def evaluation_inputs(parameters: Mapping[str, Value], *, seed: int, data: Path | None) -> Array:
    """500 further waveforms of the same vowels, float32 (500, 4000, 1)."""
    return _drawn(np.arange(TEST_EXAMPLES), TEST_EXAMPLES, seed, 5)[0]


def evaluate(
    parameters: Mapping[str, Value], *, outputs: Array, weights: Arrays, seed: int, data: Path | None
) -> dict[str, Any]:
    """Share of the further waveforms whose largest logit is the vowel."""
    labels = _drawn(np.arange(TEST_EXAMPLES), TEST_EXAMPLES, seed, 5)[1]
    return {"test_accuracy": evaluation.accuracy(outputs.argmax(axis=1), labels)}


def _drawn(which: Array, n: int, seed: int, stream: int) -> tuple[Array, Array]:
    """Waveforms (k, 4000, 1) and labels (k,) of those examples: a vowel at some pitch, loudness and time, under noise.

    They are cut to 12 bits, as a recording is, so that the last bit of a sine changes nothing.
    """
    rng = np.random.default_rng([seed, stream])
    labels = rng.integers(0, CLASSES, n)
    pitches = rng.integers(0, len(PITCHES_HZ), n)
    starts = rng.integers(0, SAMPLES, n)
    loudness = rng.integers(8, 25, n) / 32
    offsets = rng.integers(0, _NOISE_VALUES - SAMPLES, n)
    places = np.arange(SAMPLES)
    clean = _vowels()[labels[which][:, None], pitches[which][:, None], (starts[which][:, None] + places) % SAMPLES]
    noise = _noise(seed)[offsets[which][:, None] + places]
    loud = np.clip(loudness[which][:, None] * clean + noise, -1, 2047 / 2048)
    return (np.round(loud * 2048) / 2048).astype(np.float32)[..., None], labels[which]


@cache
def _vowels() -> Array:
    """Every vowel at every pitch, (classes, pitches, 4000), its largest value 1.

    Harmonics of the pitch, each as loud as the three resonances let it through and falling by 12 dB an octave as the
    voice does; all pitches are multiples of 2 Hz, so that half a second holds whole periods.
    source  Fant 1960, Acoustic Theory of Speech Production
    """
    times = np.arange(SAMPLES) / RATE_HZ
    table = np.empty((CLASSES, len(PITCHES_HZ), SAMPLES))
    for column, pitch in enumerate(PITCHES_HZ):
        harmonics = np.arange(pitch, RATE_HZ / 2, pitch)
        tones = np.sin(2 * np.pi * harmonics[:, None] * times)
        for row, formants in enumerate(FORMANTS_HZ):
            gains = [1 / np.abs(1 - (harmonics / f) ** 2 + 1j * harmonics * b / f**2)
                     for f, b in zip(formants, BANDWIDTHS_HZ, strict=True)]  # fmt: skip
            voice = (np.prod(gains, axis=0) * (pitch / harmonics) ** 2) @ tones
            table[row, column] = voice / np.abs(voice).max()
    return table


@cache
def _noise(seed: int) -> Array:
    """With a standard deviation of 0.05, of which each waveform takes a stretch."""
    return np.random.default_rng([seed, 3]).standard_normal(_NOISE_VALUES) * 0.05
