"""Neural collaborative filtering (NeuMF), framework-neutral: sizes, data, initial weights, what is evaluated.

generalised matrix factorisation   g = p_u ∘ q_i                          of `factors` numbers each
multi-layer perceptron             h = ReLU(ReLU([p'_u, q'_i] K₁ + b₁) K₂ + b₂)    4f → 2f → f, embeddings of 2f
score                              z = [g, h] k + b
loss = mean of −y log σ(z) − (1 − y) log(1 − σ(z));  Adam (workloads.training.Rule)

The tables have the sizes of MovieLens-1M; who likes what is drawn from hidden tastes.
"""

from __future__ import annotations

from collections.abc import Mapping
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

PARAMETERS = ("users", "items", "factors", "learning_rate", "evaluate_steps")
DEFAULTS: dict[str, Value] = {
    "users": 6040, "items": 3706, "factors": 8, "learning_rate": 0.003, "evaluate_steps": 1000,
}  # fmt: skip
NEEDS_DATA = False
INPUT = "pairs"
TARGET = "labels"
EXAMPLES = 2**16
NEGATIVES = 4  # for every liked item so many that were drawn at random
TASTES = 4  # numbers that a user and an item are matched by
LIKED_OF = 32  # the item liked best among so many is one that a user chose
RANKED, TOP, TEST_USERS = 100, 10, 500


def parameters(given: Mapping[str, Value]) -> dict[str, Value]:
    """All parameters, the default where none is given. Raises ValueError with one sentence."""
    values = {**DEFAULTS, **given}
    for name in ("users", "items"):
        whole(values, name, RANKED, 10_000_000)
    whole(values, "factors", 1, 1024)
    whole(values, "evaluate_steps", 1, 1_000_000)
    number(values, "learning_rate", 10)
    return values


def sizes(parameters: Mapping[str, Value]) -> tuple[int, int, int]:
    """Users, items, factors."""
    return tuple(int(parameters[name]) for name in ("users", "items", "factors"))  # type: ignore[arg-type, return-value]


def shapes(parameters: Mapping[str, Value]) -> dict[str, tuple[int, ...]]:
    """Kernels (in, out)."""
    users, items, f = sizes(parameters)
    return {
        "gmf_user/embeddings": (users, f),
        "gmf_item/embeddings": (items, f),
        "mlp_user/embeddings": (users, 2 * f),
        "mlp_item/embeddings": (items, 2 * f),
        "dense1/kernel": (4 * f, 2 * f),
        "dense1/bias": (2 * f,),
        "dense2/kernel": (2 * f, f),
        "dense2/bias": (f,),
        "head/kernel": (2 * f, 1),
        "head/bias": (1,),
    }


def batch_size(parameters: Mapping[str, Value], asked: int) -> int:
    """The batch asked for, or all examples where that is smaller."""
    return min(asked, EXAMPLES)


def flops(parameters: Mapping[str, Value], *, batch_size: int, phase: str) -> int:
    """Floating-point operations of one step; looking up an embedding is none."""
    _, _, f = sizes(parameters)
    macs = f + 4 * f * 2 * f + 2 * f * f + 2 * f
    return counting.of_step(macs=macs, first=0, batch_size=batch_size, phase=phase)


def optimizer(parameters: Mapping[str, Value]) -> Rule:
    """Adam."""
    return Rule(name="adam", learning_rate=float(parameters["learning_rate"]))  # type: ignore[arg-type]


def initial_weights(parameters: Mapping[str, Value], seed: int) -> dict[str, Array]:
    """Glorot-uniform kernels, small embeddings and zero biases, float32."""
    return sampling.initial_weights(shapes(parameters), seed)


def batches(
    parameters: Mapping[str, Value], *, batch_size: int, count: int, seed: int, data: Path | None, first: int = 0
) -> dict[str, Array]:
    """`count` batches from `first` on: users with items (count, batch, 2) int64, labels 0 or 1 (count, batch, 1)."""
    pairs, labels = _examples(*sizes(parameters)[:2], seed)
    order = sampling.epochs(np.random.default_rng([seed, 4]), len(pairs), batch_size, count, first)
    return {INPUT: pairs[order], TARGET: labels[order]}


def evaluation_inputs(parameters: Mapping[str, Value], *, seed: int, data: Path | None) -> Array:
    """For 500 users one item that they chose and 99 drawn at random, in this order: (50000, 2) int64."""
    users, items, _ = sizes(parameters)
    rng = np.random.default_rng([seed, 5])
    who = rng.integers(0, users, TEST_USERS)
    ranked = rng.integers(0, items, (TEST_USERS, RANKED))
    ranked[:, 0] = _chosen(who, *_tastes(users, items, seed), rng)
    return np.stack([np.repeat(who, RANKED), ranked.ravel()], axis=1)


def evaluate(
    parameters: Mapping[str, Value], *, outputs: Array, weights: Arrays, seed: int, data: Path | None
) -> dict[str, Any]:
    """Hit rate: how often the chosen item is among the ten scored highest of a hundred; a guess has 10 %."""
    return {"hit_rate_at_10": evaluation.hit_rate(outputs.reshape(TEST_USERS, RANKED), TOP)}


@cache
def _examples(users: int, items: int, seed: int) -> tuple[Array, Array]:
    """Pairs (EXAMPLES, 2), of which one in five was chosen; labels (EXAMPLES, 1), float32."""
    rng = np.random.default_rng([seed, 3])
    who, what = rng.integers(0, users, EXAMPLES), rng.integers(0, items, EXAMPLES)
    chosen = rng.integers(0, NEGATIVES + 1, EXAMPLES) == 0
    what[chosen] = _chosen(who[chosen], *_tastes(users, items, seed), rng)
    return np.stack([who, what], axis=1), chosen.astype(np.float32)[:, None]


@cache
def _tastes(users: int, items: int, seed: int) -> tuple[Array, Array]:
    """What users look for, (users, TASTES), and items offer: dyadic rationals, so that their products are exact."""
    rng = np.random.default_rng([seed, 2])
    drawn = (rng.standard_normal((n, TASTES)) for n in (users, items))
    wanted, offered = (sampling.dyadic(one, 8) for one in drawn)
    return wanted, offered


def _chosen(who: Array, wanted: Array, offered: Array, rng: np.random.Generator) -> Array:
    """For every user the best liked of so many items drawn at random."""
    seen = rng.integers(0, len(offered), (len(who), LIKED_OF))
    liked = np.einsum("ut,ust->us", wanted[who], offered[seen])
    return np.asarray(np.take_along_axis(seen, liked.argmax(axis=1)[:, None], axis=1)[:, 0])
