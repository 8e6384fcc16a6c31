"""The network in NumPy float64, gradients written out through time."""

from __future__ import annotations

from workloads.contract import Cell
from workloads.layers import Gradients, Layer, cross_entropy, dense, embedding, lstm, sequence
from workloads.lstm_text import spec
from workloads.runtime import Arrays, Program
from workloads.training.reference import supervised


def network(model: Arrays, moved: Gradients | None) -> Layer:
    """Characters (n, length) to logits (n, length, 27)."""
    return sequence(embedding(model, "token"), lstm(model, "lstm"), dense(model, "head"))


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """The same Program as the twins', eager, at the cell's precision (the certificate uses fp64)."""
    return supervised(
        cell=cell,
        weights=weights,
        rule=spec.optimizer(cell.workload.mapping),
        network=network,
        loss_of=cross_entropy,
        inputs=batches["characters"],
        targets=batches["next_characters"],
    )
