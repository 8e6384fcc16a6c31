"""The figures of a trained model, each against what can be counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from workloads import evaluation


def test_accuracy_and_mean_squared_error_are_what_their_names_say() -> None:
    assert evaluation.accuracy(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])) == 0.75
    assert evaluation.mean_squared_error(np.array([1.0, 3.0]), np.array([0.0, 0.0])) == 5


def test_the_cross_entropy_is_over_every_place_and_does_not_overflow() -> None:
    logits = np.zeros((2, 3, 4), np.float32)
    assert evaluation.cross_entropy(logits, np.zeros((2, 3), np.int64)) == pytest.approx(np.log(4))
    assert evaluation.cross_entropy(np.array([[5000.0, 0.0]]), np.array([1])) == 5000


def test_a_hit_is_an_own_item_with_fewer_than_k_others_above_or_beside_it() -> None:
    scores = np.array([[3.0, 1, 2, 5], [3.0, 3, 3, 3], [9.0, 1, 1, 1]])
    assert evaluation.hit_rate(scores, 1) == pytest.approx(1 / 3)
    assert evaluation.hit_rate(scores, 2) == pytest.approx(2 / 3), "a tie with all others is the last rank, no hit"
    assert evaluation.hit_rate(scores, 4) == 1


@pytest.mark.parametrize(("n", "k"), [(10, 2), (11, 3), (20, 20)])
def test_every_example_is_held_out_once_and_never_trained_on_then(n: int, k: int) -> None:
    held_out: list[int] = []
    sizes = []
    for train, held in evaluation.folds(n, k, seed=1):
        assert sorted([*train, *held]) == list(range(n))
        held_out += held.tolist()
        sizes.append(len(held))
    assert sorted(held_out) == list(range(n))
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == k


def test_the_folds_follow_the_seed_and_are_no_stretches_of_the_data() -> None:
    first, again, other = ([held.tolist() for _, held in evaluation.folds(100, 5, seed)] for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert sorted(first[0]) != list(range(20))


def test_cross_validation_gives_every_fold_s_score_with_mean_and_deviation() -> None:
    seen: list[Any] = []

    def score(train: Any, held: Any) -> float:
        seen.append((len(train), len(held)))
        return float(len(seen))

    found = evaluation.cross_validation(n=9, k=3, seed=0, score=score)
    assert seen == [(6, 3)] * 3
    assert found == {"folds": 3, "scores": [1, 2, 3], "mean": 2, "sd": 1}
