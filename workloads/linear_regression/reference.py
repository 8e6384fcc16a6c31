"""Linear regression in NumPy float64, gradients written out."""

from __future__ import annotations

import numpy as np

from workloads.contract import Cell
from workloads.linear_regression import spec
from workloads.runtime import DTYPES, Array, Arrays, Program


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """∂loss/∂w = Xᵀ(ŷ − y) / n,  ∂loss/∂b = Σ(ŷ − y) / n; names and shapes as in the twins."""
    dtype = DTYPES[cell.precision]
    features, targets = batches["features"].astype(dtype), batches["targets"].astype(dtype)
    model = {name: array.astype(dtype) for name, array in weights.items()}
    rate = spec.learning_rate(cell.workload.mapping)

    def forward(x: Array) -> Array:
        prediction: Array = x @ model["weight"] + model["bias"]
        return prediction

    def loss_and_gradients(x: Array, y: Array) -> tuple[Array, dict[str, Array]]:
        error = forward(x) - y
        gradients = {"weight": x.T @ error / len(x), "bias": error.sum(axis=0) / len(x)}
        return np.sum(error**2) / (2 * len(x)), gradients

    def train(x: Array, y: Array) -> Array:
        loss, gradients = loss_and_gradients(x, y)
        for name, gradient in gradients.items():
            model[name] -= rate * gradient
        return loss

    step = train if cell.phase == "train" else lambda x, _: forward(x)
    return Program(
        parameter_count=sum(array.size for array in model.values()),
        step=lambda i: step(features[i % len(features)], targets[i % len(targets)]),
        gradients=lambda i: loss_and_gradients(features[i % len(features)], targets[i % len(targets)])[1],
        outputs=lambda x: forward(x.astype(dtype)),
        weights=lambda: {name: array.copy() for name, array in model.items()},
        fetch=np.asarray,
    )
