"""The network in NumPy float64, gradients written out."""

from __future__ import annotations

from workloads.contract import Cell
from workloads.layers import Gradients, Layer, convolution, cross_entropy, dense, flatten, max_pool, relu, sequence
from workloads.mnist_cnn import spec
from workloads.runtime import Arrays, Program
from workloads.training.reference import supervised


def network(model: Arrays, moved: Gradients | None) -> Layer:
    """Images (n, 28, 28, 1) to logits (n, 10)."""
    return sequence(
        convolution(model, "conv1"),
        relu,
        max_pool(2, axes=2),
        convolution(model, "conv2"),
        relu,
        max_pool(2, axes=2),
        flatten,
        dense(model, "dense1"),
        relu,
        dense(model, "dense2"),
    )


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
