"""A linear support vector machine in NumPy float64, gradients written out."""

from __future__ import annotations

import numpy as np

from workloads.contract import Cell
from workloads.layers import Gradients, Layer, dense
from workloads.runtime import Array, Arrays, Program
from workloads.svm import spec
from workloads.training.reference import supervised


def network(model: Arrays, moved: Gradients | None) -> Layer:
    """X w + b."""
    return dense(model, "linear")


def penalty(model: Arrays) -> tuple[Array, Gradients]:
    """½ ‖w‖², whose gradient is w; the bias is free."""
    kernel = model["linear/kernel"]
    return np.sum(kernel**2) / 2, {"linear/kernel": kernel}


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """∂J/∂w = w − C n/m Σ y x,  ∂J/∂b = −C n/m Σ y, both over the examples with y (x w + b) < 1."""
    slack_weight = spec.slack_weight(cell.workload.mapping)

    def hinge(y: Array, outputs: Array) -> tuple[Array, Array]:
        slack = np.maximum(0, 1 - y * outputs)
        return slack_weight * slack.mean(), -slack_weight * y * (slack > 0) / slack.size

    return supervised(
        cell=cell,
        weights=weights,
        rule=spec.optimizer(cell.workload.mapping),
        network=network,
        loss_of=hinge,
        inputs=batches["features"],
        targets=batches["targets"],
        penalty=penalty,
    )
