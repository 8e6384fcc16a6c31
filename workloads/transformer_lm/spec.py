"""A decoder-only transformer over characters, framework-neutral: sizes, data, initial weights, what is evaluated.

characters (batch, length) → token + position embedding → `layers` blocks → layer norm → dense 27
block:  x ← x + attention(norm(x)),  x ← x + dense(gelu(dense(norm(x))));  causal, norm before, 4 `width` inside
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

PARAMETERS = ("length", "layers", "heads", "width", "learning_rate", "evaluate_steps")
DEFAULTS: dict[str, Value] = {
    "length": 32, "layers": 2, "heads": 4, "width": 64, "learning_rate": 0.003, "evaluate_steps": 300,
}  # fmt: skip
NEEDS_DATA = False
CHARACTERS = len(ALPHABET)
EPSILON = 1e-5  # of every layer norm


def parameters(given: Mapping[str, Value]) -> dict[str, Value]:
    """All parameters, the default where none is given. Raises ValueError with one sentence."""
    values = {**DEFAULTS, **given}
    whole(values, "length", 2, 4096)  # over one place attention has nothing to choose: its gradients are rounding
    whole(values, "layers", 1, 96)
    heads, width = whole(values, "heads", 1, 128), whole(values, "width", 8, 8192)
    if width % heads:
        raise ValueError(f"width is {width} and heads is {heads}; the width must be a multiple of the heads")
    whole(values, "evaluate_steps", 1, 1_000_000)
    number(values, "learning_rate", 10)
    return values


def sizes(parameters: Mapping[str, Value]) -> tuple[int, int, int, int]:
    """Length, layers, heads, width."""
    return tuple(int(parameters[name]) for name in ("length", "layers", "heads", "width"))  # type: ignore[arg-type, return-value]


def shapes(parameters: Mapping[str, Value]) -> dict[str, tuple[int, ...]]:
    """Kernels (in, out); those of query, key and value (in, heads, part), of the heads' output (heads, part, out)."""
    length, layers, heads, width = sizes(parameters)
    part = width // heads
    found: dict[str, tuple[int, ...]] = {
        "token/embeddings": (CHARACTERS, width),
        "position/embeddings": (length, width),
    }
    for block in (f"block{i}" for i in range(1, layers + 1)):
        found |= {f"{block}/norm1/gamma": (width,), f"{block}/norm1/beta": (width,)}
        for name in ("query", "key", "value"):
            found[f"{block}/attention/{name}/kernel"] = (width, heads, part)
        found |= {
            f"{block}/attention/attention_output/kernel": (heads, part, width),
            f"{block}/norm2/gamma": (width,),
            f"{block}/norm2/beta": (width,),
            f"{block}/dense1/kernel": (width, 4 * width),
            f"{block}/dense1/bias": (4 * width,),
            f"{block}/dense2/kernel": (4 * width, width),
            f"{block}/dense2/bias": (width,),
        }
    return found | {
        "norm/gamma": (width,),
        "norm/beta": (width,),
        "head/kernel": (width, CHARACTERS),
        "head/bias": (CHARACTERS,),
    }


def batch_size(parameters: Mapping[str, Value], asked: int) -> int:
    """The batch asked for: windows of text are never short."""
    return asked


def flops(parameters: Mapping[str, Value], *, batch_size: int, phase: str) -> int:
    """Floating-point operations of one step, attention over all places, later ones too; embeddings are none."""
    length, layers, _, width = sizes(parameters)
    macs = length * (layers * (12 * width**2 + 2 * length * width) + width * CHARACTERS)
    return counting.of_step(macs=macs, first=0, batch_size=batch_size, phase=phase)


def optimizer(parameters: Mapping[str, Value]) -> Rule:
    """Adam."""
    return Rule(name="adam", learning_rate=float(parameters["learning_rate"]))  # type: ignore[arg-type]


def initial_weights(parameters: Mapping[str, Value], seed: int) -> dict[str, Array]:
    """Glorot-uniform kernels, small embeddings, scales of one and zeros, float32."""
    named = shapes(parameters)
    *_, width = sizes(parameters)
    # An attention's kernels are square matrices that are cut into heads.
    square = {name: (width, width) if "/attention/" in name and name.endswith("kernel") else shape
              for name, shape in named.items()}  # fmt: skip
    return {name: array.reshape(named[name]) for name, array in sampling.initial_weights(square, seed).items()}


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
