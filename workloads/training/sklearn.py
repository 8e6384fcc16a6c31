"""One training step in scikit-learn: an estimator's own partial_fit; and its exact solver, for an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor

from workloads.contract import Cell
from workloads.runtime import DTYPES, Array, Arrays, Program, at_precision
from workloads.training import Rule

# A third of what a certificate holds losses to: no more may come from the way in which a library tells one.
LOSS_HELD_TO = {"float64": 3e-11, "float32": 3e-5}


class Learner(Protocol):
    """What learns one batch at a time: `step` gives the loss before it moved, `weights` those of now."""

    def step(self, x: Array, y: Array) -> float:
        """One batch."""

    def weights(self) -> dict[str, Array]:
        """Under the spec's names."""

    def untold(self, x: Array, y: Array) -> str | None:
        """Why the loss of this batch cannot be told at the present weights, where it cannot."""


class GradientSteps:
    """A linear model that follows the mean gradient of its batch: a network of no hidden layer.

    scikit-learn's linear models have no such step. Its multi-layer perceptron has, and is one of them without layers.
    """

    def __init__(self, kind: type, rule: Rule, weights: Arrays, batch_size: int, classes: Any = None) -> None:
        self.more = {} if classes is None else {"classes": classes}
        self.estimator = kind(
            hidden_layer_sizes=(), solver="sgd", alpha=0.0, batch_size=batch_size, learning_rate="constant",
            learning_rate_init=rule.learning_rate, momentum=0.0, nesterovs_momentum=False, shuffle=False,
        )  # fmt: skip
        kernel, bias = weights["linear/kernel"], weights["linear/bias"]
        one = np.zeros((batch_size, len(kernel)), kernel.dtype)
        self.estimator.partial_fit(one, np.arange(batch_size) % 2, **self.more)  # allocates; its step is undone here
        self.estimator.coefs_[0][...], self.estimator.intercepts_[0][...] = kernel, bias

    def step(self, x: Array, y: Array) -> float:
        """θ ← θ − α g."""
        self.estimator.partial_fit(x, y.ravel(), **self.more)
        return float(self.estimator.loss_)

    def weights(self) -> dict[str, Array]:
        """Copies."""
        return {
            "linear/kernel": self.estimator.coefs_[0].copy(),
            "linear/bias": self.estimator.intercepts_[0].copy(),
        }

    def untold(self, x: Array, y: Array) -> str | None:
        """Nothing is."""
        return None


class ClassificationSteps(GradientSteps):
    """The same by the mean negative log-likelihood, which scikit-learn tells by way of the probabilities."""

    def __init__(self, rule: Rule, weights: Arrays, batch_size: int) -> None:
        super().__init__(MLPClassifier, rule, weights, batch_size, classes=np.array([0, 1]))

    def untold(self, x: Array, y: Array) -> str | None:
        """Where an example is so wrong that log(1 − p) says little, or is cut at the last bit of p; its step is right.

        1 − p = e^−z is off by an ulp of p, the loss by ε e^z of its z nats.
        """
        logits = x @ self.estimator.coefs_[0] + self.estimator.intercepts_[0]
        worst = float(np.max(np.where(y > 0, -logits, logits)))  # nats
        if worst <= 0 or np.finfo(logits.dtype).eps * np.exp(worst) <= LOSS_HELD_TO[logits.dtype.name] * worst:
            return None
        return (
            f"scikit-learn tells its loss by way of a probability, which cannot say that an example is {worst:.0f} "
            "nats wrong; lower the learning rate, or raise the batch size or the noise"
        )


def regression_steps(cell: Cell, rule: Rule, weights: Arrays) -> GradientSteps:
    """By 1/(2n) Σ (y − ŷ)²."""
    return GradientSteps(MLPRegressor, rule, weights, cell.batch_size)


def classification_steps(cell: Cell, rule: Rule, weights: Arrays) -> ClassificationSteps:
    """By the mean negative log-likelihood."""
    return ClassificationSteps(rule, weights, cell.batch_size)


def supervised(
    *,
    cell: Cell,
    weights: Arrays,
    rule: Rule,
    inputs: Array,
    targets: Array,
    predict: Callable[[Arrays], Callable[[Array], Array]],
    learner: Callable[[Rule, Arrays], Learner],
    solver: str,
    solve: Callable[[Array, Array], dict[str, Array]],
) -> Program:
    """The same Program as the other frameworks'.

    predict  weights -> (inputs -> outputs), of an estimator that holds these weights
    learner  (rule, weights) -> what learns from them on
    solve    all features and targets -> the weights that the library's own solver finds, named by `solver`
    """
    dtype = DTYPES[cell.precision]
    xs, ys = at_precision(inputs, dtype), at_precision(targets, dtype)

    def give(inputs: Array, targets: Array) -> None:
        nonlocal xs, ys
        xs, ys = at_precision(inputs, dtype), at_precision(targets, dtype)

    start = {name: array.astype(dtype) for name, array in weights.items()}
    solved: dict[str, Array] = {}
    untold: Callable[[int], str | None] = lambda i: None  # noqa: E731
    if cell.phase == "train":
        learning = learner(rule, start)
        untold = lambda i: learning.untold(xs[i % len(xs)], ys[i % len(ys)])  # noqa: E731
        step: Callable[[int], Any] = lambda i: learning.step(xs[i % len(xs)], ys[i % len(ys)])  # noqa: E731
    else:
        predicted = predict(start)
        step = lambda i: predicted(xs[i % len(xs)])  # noqa: E731

    def present() -> dict[str, Array]:
        return solved or (learning.weights() if cell.phase == "train" else start)

    def gradients(i: int, *, eager: bool = True) -> dict[str, Array]:
        """No estimator tells them: they are how far one step at a learning rate of ½ goes from here, twice."""
        here = present()
        fresh = learner(replace(rule, learning_rate=0.5), here)
        fresh.step(xs[i % len(xs)], ys[i % len(ys)])
        return {name: 2 * (here[name] - moved) for name, moved in fresh.weights().items()}

    return Program(
        parameter_count=sum(array.size for array in weights.values()),
        step=step,
        give=give,
        gradients=gradients,
        outputs=lambda x: predict(present())(at_precision(x, dtype)),
        weights=present,
        fetch=np.asarray,
        solve=lambda x, y: solved.update(solve(x.astype(np.float64), y.astype(np.float64).ravel())),
        solver=solver,
        untold=untold,
    )


def named(coefficients: Array, intercept: Array) -> dict[str, Array]:
    """An estimator's coefficients (1, d) or (d,) and its intercept, under the spec's names."""
    return {"linear/kernel": np.reshape(coefficients, (-1, 1)).copy(), "linear/bias": np.reshape(intercept, 1).copy()}
