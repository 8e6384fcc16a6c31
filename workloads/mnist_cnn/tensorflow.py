"""The network in TensorFlow: Keras layers, GradientTape, keras.optimizers.SGD.

source   keras.io/examples/vision/mnist_convnet, keras.io/guides/writing_a_custom_training_loop_in_tensorflow
"""

from __future__ import annotations

from typing import Any

import keras

from workloads.contract import Cell
from workloads.mnist_cnn import spec
from workloads.runtime import Arrays, Program
from workloads.runtime.tensorflow import set_precision
from workloads.training.tensorflow import cross_entropy, load, supervised


def network(*, cell: Cell, weights: Arrays) -> Any:
    """Images (n, 28, 28, 1) to logits (n, 10), at the cell's precision, with the weights given (spec.SHAPES)."""
    set_precision(cell.precision)
    model = keras.Sequential([
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(32, 3, padding="valid", name="conv1"),
        keras.layers.ReLU(),
        keras.layers.MaxPooling2D(2),
        keras.layers.Conv2D(64, 3, padding="valid", name="conv2"),
        keras.layers.ReLU(),
        keras.layers.MaxPooling2D(2),
        keras.layers.Flatten(),
        keras.layers.Dense(128, name="dense1"),
        keras.layers.ReLU(),
        keras.layers.Dense(10, name="dense2"),
    ])  # fmt: skip
    load(model, weights)
    return model


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """Place one step on the device, ready to call.

    batches  images (count, batch, 28, 28, 1) float32 in [0, 1]; labels (count, batch) int64
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
