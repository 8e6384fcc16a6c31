"""The network in NumPy float64, gradients written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from workloads.contract import Cell
from workloads.layers import (
    Gradients,
    Layer,
    batch_norm,
    convolution,
    cross_entropy,
    dense,
    global_average,
    padded,
    relu,
    residual,
    sequence,
)
from workloads.resnet import spec
from workloads.runtime import Arrays, Program
from workloads.training.reference import supervised


def network(model: Arrays, moved: Gradients | None, blocks: Sequence[spec.Block]) -> Layer:
    """Images (n, 32, 32, 3) to logits (n, 10)."""
    normed = partial(_normed, model, moved)
    return sequence(
        *normed("conv", size=3, stride=1),
        relu,
        *(layer for block in blocks for layer in _block(block, normed)),
        global_average,
        dense(model, "head"),
    )


def _block(block: spec.Block, normed: Callable[..., tuple[Layer, ...]]) -> tuple[Layer, Layer]:
    main = sequence(
        *normed(f"{block.name}/conv1", size=3, stride=block.stride),
        relu,
        *normed(f"{block.name}/conv2", size=3, stride=1),
    )
    shortcut = sequence(*normed(f"{block.name}/conv3", size=1, stride=block.stride)) if block.projects else None
    return residual(main, shortcut), relu


def _normed(model: Arrays, moved: Gradients | None, name: str, *, size: int, stride: int) -> tuple[Layer, ...]:
    norm = batch_norm(model, name.replace("conv", "norm"), epsilon=spec.EPSILON, keep=spec.KEEP, moved=moved)
    padding = (padded(1),) if size == 3 else ()
    return (*padding, convolution(model, name, stride=stride), norm)


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """The same Program as the twins', eager, at the cell's precision (the certificate uses fp64)."""
    blocks = list(spec.blocks(cell.workload.mapping))

    def layers(model: Arrays, moved: Gradients | None) -> Layer:
        return network(model, moved, blocks)

    return supervised(
        cell=cell,
        weights=weights,
        rule=spec.optimizer(cell.workload.mapping),
        network=layers,
        loss_of=cross_entropy,
        inputs=batches["images"],
        targets=batches["labels"],
    )
