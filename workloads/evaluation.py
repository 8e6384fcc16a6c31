"""What is reported of a trained model: each figure by one function in NumPy, the same for every framework."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from workloads.runtime import Array


def accuracy(predicted: Array, labels: Array) -> float:
    """Share of the predicted classes that are the labels'; both of the same shape."""
    return float(np.mean(predicted == labels))


def mean_squared_error(predicted: Array, targets: Array) -> float:
    """Σ (predicted − target)² / n, in float64; both of the same shape."""
    return float(np.mean((predicted.astype(np.float64) - targets) ** 2))


def cross_entropy(logits: Array, labels: Array) -> float:
    """Mean −log softmax(logits)[label] in nats, in float64; classes along the last axis of (…, classes)."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    log_sums = np.log(np.exp(shifted).sum(axis=-1))
    return float(np.mean(log_sums - np.take_along_axis(shifted, labels[..., None].astype(np.int64), axis=-1)[..., 0]))


def hit_rate(scores: Array, k: int) -> float:
    """Share of the rows (one's own item first, then others) in which fewer than k others score at least as much."""
    return float(np.mean((scores[:, 1:] >= scores[:, :1]).sum(axis=1) < k))


def folds(n: int, k: int, seed: int) -> Iterator[tuple[Array, Array]]:
    """For each of k folds the examples to train on and those held out; every example is held out once."""
    shuffled = np.random.default_rng([seed, 9]).permutation(n)
    parts = np.array_split(shuffled, k)
    for held in range(k):
        yield np.concatenate([part for i, part in enumerate(parts) if i != held]), parts[held]


def cross_validation(*, n: int, k: int, seed: int, score: Callable[[Array, Array], float]) -> dict[str, object]:
    """k-fold cross-validation: the score of every fold, their mean and their standard deviation (n − 1).

    score   (examples to train on, examples held out) -> the figure of the held-out ones
    source  Stone 1974, doi:10.1111/j.2517-6161.1974.tb00994.x
    """
    scores = [score(train, held) for train, held in folds(n, k, seed)]
    return {"folds": k, "scores": scores, "mean": float(np.mean(scores)), "sd": float(np.std(scores, ddof=1))}
