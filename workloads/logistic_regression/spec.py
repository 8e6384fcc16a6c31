"""Binary logistic regression, framework-neutral: sizes, data, initial weights, what is evaluated.

P(y = 1 | x) = σ(x w + b),  σ(z) = 1 / (1 + e⁻ᶻ)
loss = −1/n · Σ [y log σ(z) + (1 − y) log(1 − σ(z))]     the mean negative log-likelihood, in nats
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workloads import linear_models
from workloads.contract import Value
from workloads.linear_models import INPUT, TARGET, in_batches
from workloads.runtime import Array, Arrays
from workloads.sampling import dyadic
from workloads.training import Rule

__all__ = ["INPUT", "TARGET", "in_batches"]

PARAMETERS = linear_models.PARAMETERS
PRESETS: dict[str, dict[str, Value]] = {
    "standard": {"n": 4096, "d": 64, "noise": 4.0, "learning_rate": 0.5, "evaluate_steps": 2000},
    "classic": {"n": 20, "d": 1, "noise": 0.0, "learning_rate": 0.5, "evaluate_steps": 4000},
}
NEEDS_DATA = False
# Hours of study, and whether the examination was passed: the example of many courses, fitted by 1.5046 x − 4.0777.
HOURS = (0.5, 0.75, 1, 1.25, 1.5, 1.75, 1.75, 2, 2.25, 2.5, 2.75, 3, 3.25, 3.5, 4, 4.25, 4.5, 4.75, 5, 5.5)
PASSED = (0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 1, 1, 1, 1, 1)


def parameters(given: Mapping[str, Value]) -> dict[str, Value]:
    """All parameters, the preset's where none is given. Raises ValueError with one sentence."""
    return linear_models.parameters(given, PRESETS, fixed=("n", "d", "noise"))


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
    """`count` batches from `first` on: features (count, batch, d), targets 0 or 1 (count, batch, 1), float32."""
    return in_batches(*examples(parameters, seed), batch_size=batch_size, count=count, first=first, seed=seed)


def evaluation_inputs(parameters: Mapping[str, Value], *, seed: int, data: Path | None) -> Array:
    """All n examples, float32 (n, d): loss and accuracy are taken over what was fitted."""
    return examples(parameters, seed)[0]


def evaluate(
    parameters: Mapping[str, Value], *, outputs: Array, weights: Arrays, seed: int, data: Path | None
) -> dict[str, Any]:
    """Loss and accuracy over all examples, and the weights; outputs are probabilities."""
    features, targets = examples(parameters, seed)
    z = linear_models.decision(features, weights)
    return {
        "loss": float(np.mean(np.logaddexp(0, z) - targets * z)),
        "accuracy": score(outputs, targets),
        **linear_models.described(weights),
    }


def score(outputs: Array, targets: Array) -> float:
    """The figure of cross-validation: accuracy of the probabilities, cut at one half."""
    return linear_models.classified(outputs, targets, 0.5)


def examples(parameters: Mapping[str, Value], seed: int) -> tuple[Array, Array]:
    """Features (n, d), targets 0 or 1 (n, 1), float32; 1 where x w + s ε > 0, ε of the logistic distribution.

    So P(y = 1 | x) = σ(x w / s), s being the parameter `noise`.
    """
    if parameters["preset"] == "classic":
        return np.asarray(HOURS, np.float32)[:, None], np.asarray(PASSED, np.float32)[:, None]
    features, weights, _ = linear_models.drawn(parameters, seed)
    u = np.random.default_rng([seed, 3]).uniform(2.0**-32, 1 - 2.0**-32, (len(features), 1))
    noise = dyadic(float(parameters["noise"]) * np.log(u / (1 - u)), 16)  # type: ignore[arg-type]
    return features.astype(np.float32), (features @ weights + noise > 0).astype(np.float32)
