"""The network in NumPy float64, gradients written out."""

from __future__ import annotations

from workloads.contract import Cell
from workloads.layers import Gradients, Layer, cross_entropy, dense, relu, sequence
from workloads.mnist_mlp import spec
from workloads.runtime import Arrays, Program
from workloads.training.reference import supervised


def network(model: Arrays, moved: Gradients | None) -> Layer:
    """Pixels (n, 784) to logits (n, 10)."""
    return sequence(dense(model, "dense1"), relu, dense(model, "dense2"))


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """The same Program as the twins', eager, at the cell's precision (the certificate uses fp64)."""
    return supervised(
        cell=cell,
        weights=weights,
        rule=spec.optimizer(cell.workload.mapping),
        network=network,
        loss_of=cross_entropy,
        inputs=batches["images"],
        targets=batches["labels"],
    )
