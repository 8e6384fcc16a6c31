"""Linear regression in NumPy float64, gradients written out."""

from __future__ import annotations

from workloads.contract import Cell
from workloads.layers import Gradients, Layer, dense, half_squared_error
from workloads.linear_regression import spec
from workloads.runtime import Arrays, Program
from workloads.training.reference import supervised


def network(model: Arrays, moved: Gradients | None) -> Layer:
    """ŷ = x w + b."""
    return dense(model, "linear")


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """∂loss/∂w = Xᵀ(ŷ − y) / n,  ∂loss/∂b = Σ(ŷ − y) / n; names and shapes as in the twins."""
    return supervised(
        cell=cell,
        weights=weights,
        rule=spec.optimizer(cell.workload.mapping),
        network=network,
        loss_of=half_squared_error,
        inputs=batches["features"],
        targets=batches["targets"],
    )
