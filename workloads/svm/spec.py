"""A linear support vector machine, framework-neutral: sizes, data, initial weights, what is evaluated.

    J(w, b) = ½ ‖w‖² + C · Σ max(0, 1 − y (x w + b)),  y = ± 1, summed over all n examples

A batch of m gives ½ ‖w‖² + C n · 1/m Σ max(…), whose mean over batches is J. The loss has kinks: what is taken there is
the subgradient 0 of max(0, 0).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workloads import linear_models
from workloads.contract import Value
from workloads.linear_models import INPUT, TARGET, in_batches
from workloads.parameters import number
from workloads.runtime import Array, Arrays
from workloads.training import Rule

__all__ = ["INPUT", "TARGET", "in_batches"]

PARAMETERS = (*linear_models.PARAMETERS, "c")
PRESETS: dict[str, dict[str, Value]] = {
    "standard": {"n": 4096, "d": 64, "noise": 2.0, "learning_rate": 0.001, "evaluate_steps": 2000, "c": 0.01},
    "classic": {"n": 6, "d": 2, "noise": 0.0, "learning_rate": 0.001, "evaluate_steps": 10000, "c": 1.0},
}
NEEDS_DATA = False
ONE_EXAMPLE_A_STEP = ("sklearn",)  # frameworks that have no step over a batch
# The widest street between these lies between x₁ + x₂ = 1 and x₁ + x₂ = 4: w = (⅔, ⅔), b = −5/3, J = 4/9.
POINTS = ((2, 2), (3, 3), (4, 3), (0, 0), (1, 0), (0, 1))
SIDES = (1, 1, 1, -1, -1, -1)


def parameters(given: Mapping[str, Value]) -> dict[str, Value]:
    """All parameters, the preset's where none is given. Raises ValueError with one sentence."""
    values = linear_models.parameters(given, PRESETS, fixed=("n", "d", "noise"))
    if not number(values, "c", 1e6):
        raise ValueError("c is 0; it must be more, or nothing says that an example lies on the wrong side")
    return values


def batch_size(parameters: Mapping[str, Value], asked: int) -> int:
    """The batch asked for, or all n examples where there are fewer; gradient descent always takes all."""
    return linear_models.batch_size(parameters, asked)


def flops(parameters: Mapping[str, Value], *, batch_size: int, phase: str) -> int:
    """Floating-point operations of one step."""
    return linear_models.step_flops(parameters, batch_size=batch_size, phase=phase)


def optimizer(parameters: Mapping[str, Value]) -> Rule:
    """θ ← θ − α g, g a subgradient."""
    return linear_models.rule(parameters)


def slack_weight(parameters: Mapping[str, Value]) -> float:
    """C n: what the mean of max(0, 1 − y ŷ) over a batch is multiplied by."""
    c, n = float(parameters["c"]), int(parameters["n"])  # type: ignore[arg-type]
    return c * n


def initial_weights(parameters: Mapping[str, Value], seed: int) -> dict[str, Array]:
    """W (d, 1), float32, uniform in ± 1/√d, and b (1,), zero."""
    return linear_models.initial_weights(parameters, seed)


def batches(
    parameters: Mapping[str, Value], *, batch_size: int, count: int, seed: int, data: Path | None, first: int = 0
) -> dict[str, Array]:
    """`count` batches from `first` on: features (count, batch, d), targets ± 1 (count, batch, 1), float32."""
    return in_batches(*examples(parameters, seed), batch_size=batch_size, count=count, first=first, seed=seed)


def evaluation_inputs(parameters: Mapping[str, Value], *, seed: int, data: Path | None) -> Array:
    """All n examples, float32 (n, d): J and accuracy are taken over what was fitted."""
    return examples(parameters, seed)[0]


def evaluate(
    parameters: Mapping[str, Value], *, outputs: Array, weights: Arrays, seed: int, data: Path | None
) -> dict[str, Any]:
    """J and accuracy over all examples, and the weights; outputs are x w + b."""
    features, targets = examples(parameters, seed)
    slack = np.maximum(0, 1 - targets * linear_models.decision(features, weights))
    width = np.sum(weights["linear/kernel"].astype(np.float64) ** 2)
    return {
        "loss": float(width / 2 + slack_weight(parameters) * np.mean(slack)),
        "accuracy": score(outputs, targets),
        **linear_models.described(weights),
    }


def score(outputs: Array, targets: Array) -> float:
    """The figure of cross-validation: accuracy by the sign of x w + b."""
    return linear_models.classified(outputs, targets, 0.0)


def examples(parameters: Mapping[str, Value], seed: int) -> tuple[Array, Array]:
    """Features (n, d), targets ± 1 (n, 1), float32; a target is 1 where x w + noise is above zero."""
    if parameters["preset"] == "classic":
        return np.asarray(POINTS, np.float32), np.asarray(SIDES, np.float32)[:, None]
    features, weights, noise = linear_models.drawn(parameters, seed)
    return features.astype(np.float32), np.where(features @ weights + noise > 0, 1, -1).astype(np.float32)
