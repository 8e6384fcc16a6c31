"""Linear regression in TensorFlow: a Keras Dense layer, GradientTape, keras.optimizers.SGD.

source   tensorflow.org/guide/core/quickstart_core, keras.io/guides/writing_a_custom_training_loop_in_tensorflow
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from workloads.contract import Cell
from workloads.linear_regression import spec
from workloads.runtime import DTYPES, Array, Arrays, Program
from workloads.runtime.tensorflow import set_precision, wrap


def network(*, cell: Cell, weights: Arrays) -> Any:
    """ŷ = x w + b, at the cell's precision, with the weights given (weight (d, 1), bias (1,))."""
    set_precision(cell.precision)
    model = keras.Sequential([keras.Input((len(weights["weight"]),)), keras.layers.Dense(1)])
    model.set_weights([weights["weight"], weights["bias"]])
    return model


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """Place one step on the device, ready to call.

    batches  features (count, batch, d), targets (count, batch, 1), float32
    returns  Program; a training step gives the loss 1/(2n) Σ (y − ŷ)², an inference step ŷ (batch, 1)
    """
    dtype = DTYPES[cell.precision]
    model = network(cell=cell, weights=weights)
    optimizer = keras.optimizers.SGD(learning_rate=spec.learning_rate(cell.workload.mapping))
    optimizer.build(model.trainable_variables)
    features = [tf.constant(batch, dtype) for batch in batches["features"]]
    targets = [tf.constant(batch, dtype) for batch in batches["targets"]]

    def loss_and_gradients(x: Any, y: Any) -> tuple[Any, list[Any]]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y)) / 2
        return loss, tape.gradient(loss, model.trainable_variables)

    def train(x: Any, y: Any) -> Any:
        loss, gradients = loss_and_gradients(x, y)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    def infer(x: Any, y: Any) -> Any:
        return model(x, training=False)

    def neutral(tensors: list[Any]) -> dict[str, Array]:
        return {"weight": tensors[0].numpy(), "bias": tensors[1].numpy()}

    step = wrap(train if cell.phase == "train" else infer, cell.mode)
    probe = wrap(loss_and_gradients, cell.mode)
    return Program(
        parameter_count=model.count_params(),
        step=lambda i: step(features[i % len(features)], targets[i % len(targets)]),
        gradients=lambda i: neutral(probe(features[i % len(features)], targets[i % len(targets)])[1]),
        outputs=lambda x: model(tf.constant(x, dtype), training=False).numpy(),
        weights=lambda: neutral(model.trainable_variables),
        fetch=lambda value: value.numpy(),
    )
