"""The network in TensorFlow: Keras layers, GradientTape, keras.optimizers.Adam.

source   tensorflow.org/tutorials/quickstart/beginner, without its dropout
"""

from __future__ import annotations

from typing import Any

import keras

from workloads.contract import Cell
from workloads.mnist_mlp import spec
from workloads.runtime import Arrays, Program
from workloads.runtime.tensorflow import set_precision
from workloads.training.tensorflow import cross_entropy, load, supervised


def network(*, cell: Cell, weights: Arrays) -> Any:
    """Pixels (n, 784) to logits (n, 10), at the cell's precision, with the weights given (spec.shapes)."""
    set_precision(cell.precision)
    pixels, width = weights["dense1/kernel"].shape
    model = keras.Sequential([
        keras.Input((pixels,)),
        keras.layers.Dense(width, name="dense1"),
        keras.layers.ReLU(),
        keras.layers.Dense(spec.CLASSES, name="dense2"),
    ])  # fmt: skip
    load(model, weights)
    return model


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """Place one step on the device, ready to call.

    batches  images (count, batch, 784) float32 in [0, 1]; labels (count, batch) int64
    returns  Program; a training step gives the mean cross-entropy in nats, an inference step logits (batch, 10)
    """
    return supervised(
        cell=cell,
        model=network(cell=cell, weights=weights),
        rule=spec.optimizer(cell.workload.mapping),
        loss_of=cross_entropy,
        inputs=batches["images"],
        targets=batches["labels"],
    )
