"""The network in TensorFlow: Keras layers, GradientTape, keras.optimizers.SGD.

source   keras.io/examples/vision/mnist_convnet, keras.io/guides/writing_a_custom_training_loop_in_tensorflow
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from workloads.contract import Cell
from workloads.mnist_cnn import spec
from workloads.runtime import DTYPES, Array, Arrays, Program
from workloads.runtime.tensorflow import set_precision, wrap


def network(*, cell: Cell, weights: Arrays) -> Any:
    """Images (n, 28, 28, 1) to logits (n, 10), at the cell's precision, with the weights given (spec.SHAPES)."""
    set_precision(cell.precision)
    model = keras.Sequential([
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(32, 3, padding="valid"),
        keras.layers.ReLU(),
        keras.layers.MaxPooling2D(2),
        keras.layers.Conv2D(64, 3, padding="valid"),
        keras.layers.ReLU(),
        keras.layers.MaxPooling2D(2),
        keras.layers.Flatten(),
        keras.layers.Dense(128),
        keras.layers.ReLU(),
        keras.layers.Dense(10),
    ])  # fmt: skip
    model.set_weights(list(weights.values()))
    return model


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """Place one step on the device, ready to call.

    batches  images (count, batch, 28, 28, 1) float32 in [0, 1]; labels (count, batch) int64
    returns  Program; a training step gives the mean cross-entropy in nats, an inference step logits (batch, 10)
    """
    dtype = DTYPES[cell.precision]
    model = network(cell=cell, weights=weights)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(
        learning_rate=spec.learning_rate(cell.workload.mapping),
        # NumPy's float64: Keras casts a Python float to float32 on its way into the update, whatever the precision.
        momentum=np.float64(spec.momentum(cell.workload.mapping)),
    )
    optimizer.build(model.trainable_variables)
    images = [tf.constant(batch, dtype) for batch in batches["images"]]
    labels = [tf.constant(batch) for batch in batches["labels"]]

    def loss_and_gradients(x: Any, y: Any) -> tuple[Any, list[Any]]:
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        return loss, tape.gradient(loss, model.trainable_variables)

    def train(x: Any, y: Any) -> Any:
        loss, gradients = loss_and_gradients(x, y)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    def infer(x: Any, y: Any) -> Any:
        return model(x, training=False)

    def neutral(tensors: list[Any]) -> dict[str, Array]:
        return {name: tensor.numpy() for name, tensor in zip(spec.SHAPES, tensors, strict=True)}

    step = wrap(train if cell.phase == "train" else infer, cell.mode)
    probe = wrap(loss_and_gradients, cell.mode)
    return Program(
        parameter_count=model.count_params(),
        step=lambda i: step(images[i % len(images)], labels[i % len(labels)]),
        gradients=lambda i: neutral(probe(images[i % len(images)], labels[i % len(labels)])[1]),
        outputs=lambda x: model(tf.constant(x, dtype), training=False).numpy(),
        weights=lambda: neutral(model.trainable_variables),
        fetch=lambda value: value.numpy(),
    )
