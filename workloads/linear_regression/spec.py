"""Linear regression, framework-neutral: sizes, data, initial weights, what is evaluated.

    y = X w + b + noise          loss = 1/(2n) · Σ (y − ŷ)²          θ ← θ − α ∂loss/∂θ

Every number of the data is a small dyadic rational, so that sums are exact in float64 and the bytes do not depend on
the order in which a BLAS adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workloads.contract import Value
from workloads.runtime import Array, Arrays

PARAMETERS = ("preset", "n", "d", "noise", "learning_rate", "evaluate_steps")
PRESETS: dict[str, dict[str, Value]] = {
    "standard": {"n": 4096, "d": 64, "noise": 0.125, "learning_rate": 0.1, "evaluate_steps": 1000},
    "classic": {"n": 5, "d": 1, "noise": 0.0, "learning_rate": 0.05, "evaluate_steps": 1000},
}
NEEDS_DATA = False
INPUT = "features"
TARGET = "targets"


def parameters(given: Mapping[str, Value]) -> dict[str, Value]:
    """All parameters, the preset's where none is given. Raises ValueError with one sentence."""
    preset = given.get("preset", "standard")
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is unknown; choose {' or '.join(PRESETS)}")
    values = {"preset": preset, **PRESETS[str(preset)], **given}
    for name in ("n", "d", "evaluate_steps"):
        if type(values[name]) is not int or not 1 <= values[name] <= 10_000_000:  # type: ignore[operator]
            raise ValueError(f"{name} is {values[name]!r}; it must be a whole number from 1 to 10000000")
    for name in ("noise", "learning_rate"):
        if type(values[name]) not in (int, float) or not 0 <= values[name] < 1e6:  # type: ignore[operator]
            raise ValueError(f"{name} is {values[name]!r}; it must be a number of 0 or more")
        values[name] = float(values[name])  # type: ignore[arg-type]
    if preset == "classic" and (values["n"], values["d"]) != (5, 1):
        raise ValueError("the preset classic has n = 5 and d = 1; leave both out, or use the preset standard")
    return values


def batch_size(parameters: Mapping[str, Value], asked: int) -> int:
    """The batch asked for, or all n examples where there are fewer."""
    return min(asked, int(parameters["n"]))  # type: ignore[arg-type]


def flops(parameters: Mapping[str, Value], *, batch_size: int, phase: str) -> int:
    """Floating-point operations of one step, a multiply-add counted as two: 2 b d forward, as many for ∂loss/∂w.

    A lower bound: the loss, the bias and the update are left out, and the input's gradient is not needed.
    """
    forward = 2 * batch_size * int(parameters["d"])  # type: ignore[arg-type]
    return 2 * forward if phase == "train" else forward


def learning_rate(parameters: Mapping[str, Value]) -> float:
    """The step α."""
    return float(parameters["learning_rate"])  # type: ignore[arg-type]


def initial_weights(parameters: Mapping[str, Value], seed: int) -> dict[str, Array]:
    """Weight (d, 1) and bias (1,), float32, uniform in ± 1/√d."""
    d = int(parameters["d"])  # type: ignore[arg-type]
    rng = np.random.default_rng([seed, 1])
    bound = 1 / np.sqrt(d)
    return {
        "weight": rng.uniform(-bound, bound, (d, 1)).astype(np.float32),
        "bias": np.zeros(1, np.float32),
    }


def batches(
    parameters: Mapping[str, Value], *, batch_size: int, count: int, seed: int, data: Path | None
) -> dict[str, Array]:
    """`count` batches in their order: features (count, batch, d), targets (count, batch, 1), float32."""
    features, targets, _ = _examples(parameters, seed)
    order = _order(len(features), batch_size, count, seed)
    return {INPUT: features[order], TARGET: targets[order]}


def evaluation_inputs(parameters: Mapping[str, Value], *, seed: int, data: Path | None) -> Array:
    """All n examples, float32 (n, d): the mean squared error is taken over what was fitted."""
    return _examples(parameters, seed)[0]


def evaluate(
    parameters: Mapping[str, Value], *, outputs: Array, weights: Arrays, seed: int, data: Path | None
) -> dict[str, Any]:
    """Mean squared error over all examples, recovered weights, and for the classic preset the predictions."""
    _, targets, true_weights = _examples(parameters, seed)
    recovered = weights["weight"].astype(np.float64).ravel()
    result: dict[str, Any] = {
        "mse": float(np.mean((outputs.astype(np.float64) - targets) ** 2)),
        "max_weight_error": float(np.max(np.abs(recovered - true_weights.ravel()))),
        "weights": [float(w) for w in recovered[:8]],
        "bias": float(weights["bias"][0]),
    }
    if parameters["preset"] == "classic":
        features = _examples(parameters, seed)[0]
        pairs = zip(features.ravel(), outputs.ravel(), strict=True)
        result["predictions"] = [{"x": float(x), "y": float(y)} for x, y in pairs]
    return result


def _examples(parameters: Mapping[str, Value], seed: int) -> tuple[Array, Array, Array]:
    """Features (n, d), targets (n, 1), float32; true weights (d, 1), float64."""
    n, d = int(parameters["n"]), int(parameters["d"])  # type: ignore[arg-type]
    if parameters["preset"] == "classic":
        features = np.arange(1, n + 1, dtype=np.float64).reshape(n, d)
        weights, bias = np.full((d, 1), 2.0), 0.0
    else:
        rng = np.random.default_rng([seed, 2])
        features = _dyadic(rng.standard_normal((n, d)), 8)
        weights, bias = _dyadic(rng.standard_normal((d, 1)), 8), 0.5
    noise = np.random.default_rng([seed, 3]).standard_normal((n, 1)) * float(parameters["noise"])  # type: ignore[arg-type]
    targets = features @ weights + bias + _dyadic(noise, 16)
    return features.astype(np.float32), targets.astype(np.float32), weights


def _dyadic(values: Array, bits: int) -> Array:
    return np.round(values * 2.0**bits) / 2.0**bits


def _order(n: int, batch: int, count: int, seed: int) -> Array:
    """Indices (count, batch): epochs of shuffled examples, the short last batch of each dropped."""
    if batch == n:
        return np.tile(np.arange(n), (count, 1))
    rng = np.random.default_rng([seed, 4])
    whole = n // batch
    epochs = [rng.permutation(n)[: whole * batch].reshape(whole, batch) for _ in range(-(-count // whole))]
    return np.concatenate(epochs)[:count]
