"""Logistic regression in NumPy float64, gradients written out."""

from __future__ import annotations

from workloads.contract import Cell
from workloads.layers import Gradients, Layer, binary_cross_entropy, dense, sigmoid
from workloads.logistic_regression import spec
from workloads.runtime import Arrays, Program
from workloads.training.reference import supervised


def network(model: Arrays, moved: Gradients | None) -> Layer:
    """The logit z = x w + b."""
    return dense(model, "linear")


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """∂loss/∂w = Xᵀ(σ(z) − y) / n,  ∂loss/∂b = Σ(σ(z) − y) / n; names and shapes as in the twins."""
    return supervised(
        cell=cell,
        weights=weights,
        rule=spec.optimizer(cell.workload.mapping),
        network=network,
        loss_of=binary_cross_entropy,
        inputs=batches["features"],
        targets=batches["targets"],
        head=sigmoid,
    )
