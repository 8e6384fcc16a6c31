"""What the specs of the linear models share: ŷ = x w + b on a table of features, one model and three losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from workloads import evaluation, flops
from workloads.contract import Value
from workloads.parameters import choice, number, whole
from workloads.runtime import Array, Arrays
from workloads.sampling import dyadic, epochs
from workloads.training import Rule

INPUT = "features"
TARGET = "targets"
PARAMETERS = ("preset", "n", "d", "noise", "optimizer", "learning_rate", "folds", "evaluate_steps")
OPTIMIZERS = ("sgd", "gradient_descent")
SHOWN_WEIGHTS = 8

Presets = Mapping[str, Mapping[str, Value]]


def parameters(
    given: Mapping[str, Value], presets: Presets, *, fixed: tuple[str, ...] = ("n", "d")
) -> dict[str, Value]:
    """All parameters, the preset's where none is given. Raises ValueError with one sentence.

    fixed  those that cannot be chosen in the preset classic, which is one small published set of examples
    """
    preset = given.get("preset", "standard")
    if preset not in presets:
        raise ValueError(f"preset {preset!r} is unknown; choose {' or '.join(presets)}")
    values: dict[str, Value] = {"preset": preset, "optimizer": "sgd", "folds": 0, **presets[str(preset)], **given}
    for name in ("n", "d", "evaluate_steps"):
        whole(values, name, 1, 10_000_000)
    for name in ("noise", "learning_rate"):
        number(values, name, 1e6)
    choice(values, "optimizer", OPTIMIZERS)
    folds = whole(values, "folds", 0, 100)
    if folds == 1 or folds > int(values["n"]):  # type: ignore[arg-type]
        raise ValueError(f"folds is {folds}; it must be 0 for no cross-validation, or from 2 to n = {values['n']}")
    classic = presets["classic"]
    if preset == "classic" and any(values[name] != classic[name] for name in fixed):
        told = " and ".join(f"{name} = {classic[name]}" for name in fixed)
        raise ValueError(f"the preset classic has {told}; leave them out, or use the preset standard")
    return values


def batch_size(parameters: Mapping[str, Value], asked: int) -> int:
    """The batch asked for, or all n examples where there are fewer; gradient descent always takes all."""
    n = int(parameters["n"])  # type: ignore[arg-type]
    return n if parameters["optimizer"] == "gradient_descent" else min(asked, n)


def step_flops(parameters: Mapping[str, Value], *, batch_size: int, phase: str) -> int:
    """2 b d forward, as many for ∂loss/∂w; the input needs no gradient."""
    d = int(parameters["d"])  # type: ignore[arg-type]
    return flops.of_step(macs=d, first=d, batch_size=batch_size, phase=phase)


def rule(parameters: Mapping[str, Value]) -> Rule:
    """θ ← θ − α g."""
    return Rule(name=str(parameters["optimizer"]), learning_rate=float(parameters["learning_rate"]))  # type: ignore[arg-type]


def initial_weights(parameters: Mapping[str, Value], seed: int) -> dict[str, Array]:
    """W (d, 1), float32, uniform in ± 1/√d, and b (1,), zero."""
    d = int(parameters["d"])  # type: ignore[arg-type]
    bound = 1 / np.sqrt(d)
    weight = np.random.default_rng([seed, 1]).uniform(-bound, bound, (d, 1)).astype(np.float32)
    return {"linear/kernel": weight, "linear/bias": np.zeros(1, np.float32)}


def in_batches(
    features: Array, targets: Array, *, batch_size: int, count: int, seed: int, first: int = 0
) -> dict[str, Array]:
    """Batches from `first` on: features (count, batch, d), targets (count, batch, 1), float32.

    A batch of all examples keeps their order.
    """
    n = len(features)
    whole = batch_size >= n
    order = np.tile(np.arange(n), (count, 1)) if whole else _shuffled(n, batch_size, count, first, seed)
    return {INPUT: features[order], TARGET: targets[order]}


def _shuffled(n: int, batch_size: int, count: int, first: int, seed: int) -> Array:
    return epochs(np.random.default_rng([seed, 4]), n, batch_size, count, first)


def drawn(parameters: Mapping[str, Value], seed: int) -> tuple[Array, Array, Array]:
    """Features (n, d), true weights (d, 1), noise (n, 1), all small dyadic rationals in float64."""
    n, d = int(parameters["n"]), int(parameters["d"])  # type: ignore[arg-type]
    rng = np.random.default_rng([seed, 2])
    features = dyadic(rng.standard_normal((n, d)), 8)
    weights = dyadic(rng.standard_normal((d, 1)), 8)
    return features, weights, noise(parameters, seed)


def noise(parameters: Mapping[str, Value], seed: int) -> Array:
    """(n, 1), with the parameter's standard deviation."""
    n, sd = int(parameters["n"]), float(parameters["noise"])  # type: ignore[arg-type]
    return dyadic(np.random.default_rng([seed, 3]).standard_normal((n, 1)) * sd, 16)


def described(weights: Arrays) -> dict[str, Any]:
    """The first weights and the bias, as numbers for a report."""
    return {
        "weights": [float(w) for w in weights["linear/kernel"].ravel()[:SHOWN_WEIGHTS]],
        "bias": float(weights["linear/bias"][0]),
    }


def decision(features: Array, weights: Arrays) -> Array:
    """X w + b in float64, (n, 1)."""
    wide = {name: array.astype(np.float64) for name, array in weights.items()}
    return np.asarray(features.astype(np.float64) @ wide["linear/kernel"] + wide["linear/bias"])


def classified(outputs: Array, targets: Array, threshold: float) -> float:
    """Accuracy of outputs that lie above the threshold for the class whose target is 1."""
    return evaluation.accuracy(outputs > threshold, targets > 0)
