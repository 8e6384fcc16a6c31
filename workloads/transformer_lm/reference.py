"""The network in NumPy float64, gradients written out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from workloads.contract import Cell
from workloads.layers import (
    Gradients,
    Layer,
    added,
    causal_attention,
    cross_entropy,
    dense,
    embedding,
    gelu,
    layer_norm,
    residual,
    sequence,
)
from workloads.runtime import Arrays, Program
from workloads.training.reference import supervised
from workloads.transformer_lm import spec


def network(model: Arrays, moved: Gradients | None) -> Layer:
    """Characters (n, length) to logits (n, length, 27)."""
    norm = partial(layer_norm, model, epsilon=spec.EPSILON)
    blocks = sorted({name.partition("/")[0] for name in model if name.startswith("block")}, key=lambda b: int(b[5:]))
    layers = [layer for block in blocks for layer in _block(model, block, norm)]
    return sequence(
        embedding(model, "token"), added(model, "position"), *layers, norm(name="norm"), dense(model, "head")
    )


def _block(model: Arrays, name: str, norm: Callable[..., Layer]) -> tuple[Layer, Layer]:
    attention = sequence(norm(name=f"{name}/norm1"), causal_attention(model, f"{name}/attention"))
    perceptron = sequence(
        norm(name=f"{name}/norm2"), dense(model, f"{name}/dense1"), gelu, dense(model, f"{name}/dense2")
    )
    return residual(attention), residual(perceptron)


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
