"""One training step in NumPy: the update rules written out, around a network of `workloads.layers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from workloads.contract import Cell
from workloads.layers import Gradients, Layer
from workloads.runtime import DTYPES, Array, Arrays, Program, at_precision
from workloads.training import Rule

STATISTICS = ("moving_mean", "moving_variance")  # kept by the model, followed by no gradient

Network = Callable[[Arrays, Gradients | None], Layer]
Loss = Callable[[Array, Array], tuple[Array, Array]]
Penalty = Callable[[Arrays], tuple[Any, Gradients]]


def optimizer(rule: Rule, model: dict[str, Array]) -> Callable[[Gradients], None]:
    """Gradients -> the update of the model, in place."""
    first = {name: np.zeros_like(array) for name, array in model.items()}
    second = {name: np.zeros_like(array) for name, array in model.items()}
    steps = 0

    def descend(gradients: Gradients) -> None:
        for name, gradient in gradients.items():
            first[name] = rule.momentum * first[name] + gradient
            model[name] = model[name] - rule.learning_rate * first[name]

    def adam(gradients: Gradients) -> None:
        nonlocal steps
        steps += 1
        rate = rule.learning_rate * np.sqrt(1 - rule.beta2**steps) / (1 - rule.beta1**steps)
        for name, gradient in gradients.items():
            first[name] = first[name] + (1 - rule.beta1) * (gradient - first[name])
            second[name] = second[name] + (1 - rule.beta2) * (gradient**2 - second[name])
            model[name] = model[name] - rate * first[name] / (np.sqrt(second[name]) + rule.epsilon)

    return adam if rule.name == "adam" else descend


def supervised(
    *,
    cell: Cell,
    weights: Arrays,
    rule: Rule,
    network: Network,
    loss_of: Loss,
    inputs: Array,
    targets: Array,
    head: Callable[[Array], Array] = lambda outputs: outputs,
    penalty: Penalty = lambda _: (0.0, {}),
) -> Program:
    """The same Program as the twins', eager, at the cell's precision (the certificate uses fp64).

    network   (model, moved) -> the layer of all layers; `moved` takes new moving figures, and is None in inference
    loss_of   (targets, outputs) -> loss, ∂loss/∂outputs
    penalty   model -> what is added to the loss, and its gradients
    """
    dtype = DTYPES[cell.precision]
    xs, ys = at_precision(inputs, dtype), at_precision(targets, dtype)

    def give(inputs: Array, targets: Array) -> None:
        nonlocal xs, ys
        xs, ys = at_precision(inputs, dtype), at_precision(targets, dtype)

    model = {name: array.astype(dtype) for name, array in weights.items()}
    update = optimizer(rule, model)

    def loss_and_gradients(x: Array, y: Array) -> tuple[Array, Gradients, Gradients]:
        moved: Gradients = {}
        gradients: Gradients = {}
        outputs, back = network(model, moved)(x)
        loss, d = loss_of(y, outputs)
        back(d, gradients)
        more, own = penalty(model)
        return loss + more, {name: gradient + own.get(name, 0) for name, gradient in gradients.items()}, moved

    def train(i: int) -> Array:
        loss, gradients, moved = loss_and_gradients(xs[i % len(xs)], ys[i % len(ys)])
        update(gradients)
        model.update(moved)
        return loss

    def outputs(x: Array) -> Array:
        return head(network(model, None)(at_precision(x, dtype))[0])

    return Program(
        parameter_count=sum(array.size for name, array in model.items() if not name.endswith(STATISTICS)),
        step=train if cell.phase == "train" else lambda i: outputs(xs[i % len(xs)]),
        give=give,
        gradients=lambda i, *, eager=True: loss_and_gradients(xs[i % len(xs)], ys[i % len(ys)])[1],
        outputs=outputs,
        weights=lambda: {name: array.copy() for name, array in model.items()},
        fetch=np.asarray,
    )
