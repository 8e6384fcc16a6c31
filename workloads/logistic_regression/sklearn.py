"""Logistic regression in scikit-learn: LogisticRegression predicts and solves, an MLPClassifier of no layers learns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from sklearn.linear_model import LogisticRegression

from workloads.contract import Cell
from workloads.logistic_regression import spec
from workloads.runtime import Array, Arrays, Program
from workloads.training.sklearn import classification_steps, named, supervised


def network(weights: Arrays) -> Callable[[Array], Array]:
    """σ(x w + b), with the weights given."""
    model = LogisticRegression()
    model.classes_ = np.array([0, 1])
    model.coef_, model.intercept_ = weights["linear/kernel"].T, weights["linear/bias"]
    return lambda x: model.predict_proba(x)[:, 1:]


def solve(features: Array, targets: Array) -> dict[str, Array]:
    """The weights of the greatest likelihood, nothing added to it."""
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=1000).fit(features, targets)
    return named(model.coef_, model.intercept_)


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """The same Program as the twins'; an evaluation solves the problem by Newton's method."""
    return supervised(
        cell=cell,
        weights=weights,
        rule=spec.optimizer(cell.workload.mapping),
        inputs=batches["features"],
        targets=batches["targets"],
        predict=network,
        learner=partial(classification_steps, cell),
        solver="newton-cholesky",
        solve=solve,
    )
