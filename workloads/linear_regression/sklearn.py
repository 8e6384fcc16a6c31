"""Linear regression in scikit-learn: LinearRegression predicts and solves, an MLPRegressor of no layers learns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sklearn.linear_model import LinearRegression

from workloads.contract import Cell
from workloads.linear_regression import spec
from workloads.runtime import Array, Arrays, Program
from workloads.training.sklearn import named, regression_steps, supervised


def network(weights: Arrays) -> Callable[[Array], Array]:
    """ŷ = x w + b, with the weights given."""
    model = LinearRegression()
    model.coef_, model.intercept_ = weights["linear/kernel"].T, weights["linear/bias"]
    return model.predict  # type: ignore[no-any-return]


def solve(features: Array, targets: Array) -> dict[str, Array]:
    """The weights of the least squared error."""
    model = LinearRegression().fit(features, targets)
    return named(model.coef_, model.intercept_)


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """The same Program as the twins'; an evaluation solves the problem by LAPACK's least squares."""
    return supervised(
        cell=cell,
        weights=weights,
        rule=spec.optimizer(cell.workload.mapping),
        inputs=batches["features"],
        targets=batches["targets"],
        predict=network,
        learner=partial(regression_steps, cell),
        solver="least squares",
        solve=solve,
    )
