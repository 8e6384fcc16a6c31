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

from workloads import evaluation, linear_models
from workloads.contract import Value
from workloads.linear_models import INPUT, TARGET, in_batches
from workloads.runtime import Array, Arrays
from workloads.training import Rule

__all__ = ["INPUT", "TARGET", "in_batches"]

PARAMETERS = linear_models.PARAMETERS
PRESETS: dict[str, dict[str, Value]] = {
    "standard": {"n": 4096, "d": 64, "noise": 0.125, "learning_rate": 0.1, "evaluate_steps": 1000},
    "classic": {"n": 5, "d": 1, "noise": 0.0, "learning_rate": 0.05, "evaluate_steps": 1000},
}
NEEDS_DATA = False
BIAS = 0.5


def parameters(given: Mapping[str, Value]) -> dict[str, Value]:
    """All parameters, the preset's where none is given. Raises ValueError with one sentence."""
    return linear_models.parameters(given, PRESETS)


def batch_size(parameters: Mapping[str, Value], asked: int) -> int:
    """The batch asked for, or all n examples where there are fewer; gradient descent always takes all."""
    return linear_models.batch_size(parameters, asked)


def flops(parameters: Mapping[str, Value], *, batch_size: int, phase: str) -> int:
    """Floating-point operations of one step."""
    return linear_models.step_flops(parameters, batch_size=batch_size, phase=phase)


def optimizer(parameters: Mapping[str, Value]) -> Rule:
    """θ ← θ − α g."""
    return linear_models.rule(parameters)


def initial_weights(parameters: Mapping[str, Value], seed: int) -> dict[str, Array]:
    """W (d, 1), float32, uniform in ± 1/√d, and b (1,), zero."""
    return linear_models.initial_weights(parameters, seed)


def batches(
    parameters: Mapping[str, Value], *, batch_size: int, count: int, seed: int, data: Path | None, first: int = 0
) -> dict[str, Array]:
    """`count` batches from `first` on: features (count, batch, d), targets (count, batch, 1), float32."""
    return in_batches(*examples(parameters, seed), batch_size=batch_size, count=count, first=first, seed=seed)


def evaluation_inputs(parameters: Mapping[str, Value], *, seed: int, data: Path | None) -> Array:
    """All n examples, float32 (n, d): the mean squared error is taken over what was fitted."""
    return examples(parameters, seed)[0]


def evaluate(
    parameters: Mapping[str, Value], *, outputs: Array, weights: Arrays, seed: int, data: Path | None
) -> dict[str, Any]:
    """Mean squared error over all examples, recovered weights, and for the classic preset the predictions."""
    features, targets, true_weights = _drawn(parameters, seed)
    mse = score(outputs, targets)
    errors = weights["linear/kernel"].astype(np.float64) - true_weights
    result: dict[str, Any] = {
        "loss": mse / 2,
        "mse": mse,
        "max_weight_error": float(np.max(np.abs(errors))),
        **linear_models.described(weights),
    }
    if parameters["preset"] == "classic":
        pairs = zip(features.ravel(), outputs.ravel(), strict=True)
        result["predictions"] = [{"x": float(x), "y": float(y)} for x, y in pairs]
    return result


def score(outputs: Array, targets: Array) -> float:
    """The figure of cross-validation: mean squared error."""
    return evaluation.mean_squared_error(outputs, targets)


def examples(parameters: Mapping[str, Value], seed: int) -> tuple[Array, Array]:
    """Features (n, d), targets (n, 1), float32."""
    features, targets, _ = _drawn(parameters, seed)
    return features, targets


def _drawn(parameters: Mapping[str, Value], seed: int) -> tuple[Array, Array, Array]:
    """The same, and the true weights (d, 1), float64."""
    if parameters["preset"] == "classic":
        n = int(parameters["n"])  # type: ignore[arg-type]
        features, weights, bias = np.arange(1.0, n + 1).reshape(n, 1), np.full((1, 1), 2.0), 0.0
        noise = linear_models.noise(parameters, seed)
    else:
        features, weights, noise = linear_models.drawn(parameters, seed)
        bias = BIAS
    targets = features @ weights + bias + noise
    return features.astype(np.float32), targets.astype(np.float32), weights
