"""The network in NumPy float64, gradients written out."""

from __future__ import annotations

from workloads.contract import Cell
from workloads.conv1d_audio import spec
from workloads.layers import (
    Gradients,
    Layer,
    convolution,
    cross_entropy,
    dense,
    global_average,
    max_pool,
    relu,
    sequence,
)
from workloads.runtime import Arrays, Program
from workloads.training.reference import supervised


def network(model: Arrays, moved: Gradients | None) -> Layer:
    """Waveforms (n, 4000, 1) to logits (n, 10)."""
    return sequence(
        convolution(model, "conv1", stride=spec.STRIDE),
        relu,
        max_pool(4, axes=1),
        convolution(model, "conv2"),
        relu,
        max_pool(4, axes=1),
        convolution(model, "conv3"),
        relu,
        max_pool(4, axes=1),
        global_average,
        dense(model, "head"),
    )


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """The same Program as the twins', eager, at the cell's precision (the certificate uses fp64)."""
    return supervised(
        cell=cell,
        weights=weights,
        rule=spec.optimizer(cell.workload.mapping),
        network=network,
        loss_of=cross_entropy,
        inputs=batches["waveforms"],
        targets=batches["labels"],
    )
