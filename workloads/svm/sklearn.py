"""A linear support vector machine in scikit-learn: SGDClassifier predicts and takes steps, SVC solves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from sklearn.linear_model import SGDClassifier
from sklearn.svm import SVC

from workloads.contract import Cell, Unsupported
from workloads.runtime import Array, Arrays, Program
from workloads.svm import spec
from workloads.training import Rule
from workloads.training.sklearn import named, supervised

CLASSES = np.array([-1.0, 1.0])


def network(weights: Arrays) -> Callable[[Array], Array]:
    """X w + b, with the weights given."""
    model = SGDClassifier()
    model.classes_ = CLASSES
    model.coef_, model.intercept_ = weights["linear/kernel"].T, weights["linear/bias"]
    return lambda x: model.decision_function(x)[:, None]


class Learner:
    """One example a step: J by it is C n (½ λ ‖w‖² + max(0, 1 − y ŷ)) with λ = 1 / (C n), which is SGDClassifier's."""

    def __init__(self, cell: Cell, rule: Rule, weights: Arrays) -> None:
        self.slack_weight = spec.slack_weight(cell.workload.mapping)
        rate = rule.learning_rate * self.slack_weight
        self.model = SGDClassifier(
            loss="hinge", alpha=1 / self.slack_weight, learning_rate="constant", eta0=rate,
            shuffle=False,
        )  # fmt: skip
        kernel, bias = weights["linear/kernel"], weights["linear/bias"]
        self.model.partial_fit(np.zeros((1, len(kernel)), kernel.dtype), CLASSES[:1], classes=CLASSES)  # allocates
        self.model.coef_, self.model.intercept_ = kernel.T.copy(order="C"), bias.copy()

    def step(self, x: Array, y: Array) -> float:
        """A subgradient step; the loss is taken before it, since partial_fit does not tell it."""
        slack = np.maximum(0, 1 - y[:, 0] * self.model.decision_function(x))
        loss = np.sum(self.model.coef_**2) / 2 + self.slack_weight * slack.mean()
        self.model.partial_fit(x, y.ravel())
        return float(loss)

    def weights(self) -> dict[str, Array]:
        """Copies."""
        return named(self.model.coef_, self.model.intercept_)

    def untold(self, x: Array, y: Array) -> str | None:
        """None is."""
        return None


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """The same Program as the twins'; an evaluation solves the problem by LIBSVM."""
    if cell.phase == "train" and batches["features"].shape[1] != 1:
        raise Unsupported(
            "sklearn's support vector machine learns one example after the other and has no step over a batch; "
            "choose batch_size 1 with the optimizer sgd, or the phase infer"
        )
    given = cell.workload.mapping

    def solve(features: Array, targets: Array) -> dict[str, Array]:
        c = spec.slack_weight(given) / len(features)
        model = SVC(kernel="linear", C=c, tol=1e-8, cache_size=1000).fit(features, targets)
        return named(model.coef_, model.intercept_)

    return supervised(
        cell=cell,
        weights=weights,
        rule=spec.optimizer(given),
        inputs=batches["features"],
        targets=batches["targets"],
        predict=network,
        learner=partial(Learner, cell),
        solver="LIBSVM",
        solve=solve,
    )
