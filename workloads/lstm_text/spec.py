"""An LSTM over characters, framework-neutral: sizes, data, initial weights, what is evaluated.

characters (batch, length) → embedding 32 → LSTM `width` → dense 27
loss = mean over all places of −log softmax at the next character;  Adam (workloads.training.Rule)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workloads import flops as counting
from workloads import sampling, text
from workloads.contract import Value
from workloads.parameters import number, whole
from workloads.runtime import Array, Arrays
from workloads.text import ALPHABET, INPUT, TARGET
from workloads.training import Rule

__all__ = ["INPUT", "TARGET"]

PARAMETERS = ("length", "width", "learning_rate", "evaluate_steps")
DEFAULTS: dict[str, Value] = {"length": 32, "width": 128, "learning_rate": 0.005, "evaluate_steps": 300}
NEEDS_DATA = False
EMBEDDING = 32
CHARACTERS = len(ALPHABET)


def parameters(given: Mapping[str, Value]) -> dict[str, Value]:
    """All parameters, the default where none is given. Raises ValueError with one sentence."""
    values = {**DEFAULTS, **given}
    whole(values, "length", 1, 4096)
    whole(values, "width", 1, 8192)
    whole(values, "evaluate_steps", 1, 1_000_000)
    number(values, "learning_rate", 10)
    return values


def shapes(parameters: Mapping[str, Value]) -> dict[str, tuple[int, ...]]:
    """Kernels (in, out); the LSTM's four gates side by side, in the order input, forget, candidate, output."""
    width = int(parameters["width"])  # type: ignore[arg-type]
    return {
        "token/embeddings": (CHARACTERS, EMBEDDING),
        "lstm/kernel": (EMBEDDING, 4 * width),
        "lstm/recurrent_kernel": (width, 4 * width),
        "lstm/bias": (4 * width,),
        "head/kernel": (width, CHARACTERS),
        "head/bias": (CHARACTERS,),
    }


def batch_size(parameters: Mapping[str, Value], asked: int) -> int:
    """The batch asked for: windows of text are never short."""
    return asked


def flops(parameters: Mapping[str, Value], *, batch_size: int, phase: str) -> int:
    """Floating-point operations of one step; looking up an embedding is none."""
    width, length = int(parameters["width"]), int(parameters["length"])  # type: ignore[arg-type]
    macs = length * (4 * width * (EMBEDDING + width) + width * CHARACTERS)
    return counting.of_step(macs=macs, first=0, batch_size=batch_size, phase=phase)


def optimizer(parameters: Mapping[str, Value]) -> Rule:
    """Adam."""
    return Rule(name="adam", learning_rate=float(parameters["learning_rate"]))  # type: ignore[arg-type]


def initial_weights(parameters: Mapping[str, Value], seed: int) -> dict[str, Array]:
    """Glorot-uniform kernels, small embeddings, zero biases but for the forget gate's ones, float32."""
    width = int(parameters["width"])  # type: ignore[arg-type]
    weights = sampling.initial_weights(shapes(parameters), seed)
    weights["lstm/bias"][width : 2 * width] = 1
    return weights


def batches(
    parameters: Mapping[str, Value], *, batch_size: int, count: int, seed: int, data: Path | None, first: int = 0
) -> dict[str, Array]:
    """`count` batches from `first` on: characters and the next ones, (count, batch, length) int64 from 0 to 26."""
    length = int(parameters["length"])  # type: ignore[arg-type]
    return text.batches(length=length, batch_size=batch_size, count=count, first=first, seed=seed)


def evaluation_inputs(parameters: Mapping[str, Value], *, seed: int, data: Path | None) -> Array:
    """Windows of another text of the same source, (256, length)."""
    return text.test_windows(length=int(parameters["length"]), seed=seed)[INPUT]  # type: ignore[arg-type]


def evaluate(
    parameters: Mapping[str, Value], *, outputs: Array, weights: Arrays, seed: int, data: Path | None
) -> dict[str, Any]:
    """Cross-entropy in nats a character, beside the source's entropy."""
    return text.evaluated(outputs, length=int(parameters["length"]), seed=seed)  # type: ignore[arg-type]
