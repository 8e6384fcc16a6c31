"""A linear support vector machine in TensorFlow: a Keras Dense layer, GradientTape, keras.optimizers.SGD.

source   keras.io/guides/writing_a_custom_training_loop_in_tensorflow
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from workloads.contract import Cell
from workloads.runtime import Arrays, Program
from workloads.runtime.tensorflow import set_precision
from workloads.svm import spec
from workloads.training.tensorflow import load, supervised


def network(*, cell: Cell, weights: Arrays) -> Any:
    """X w + b, at the cell's precision, with the weights given."""
    set_precision(cell.precision)
    d = len(weights["linear/kernel"])
    model = keras.Sequential([keras.Input((d,)), keras.layers.Dense(1, name="linear")])
    load(model, weights)
    return model


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """Place one step on the device, ready to call.

    batches  features (count, batch, d), targets (count, batch, 1), float32
    returns  Program; a training step gives ½ ‖w‖² + C n · mean max(0, 1 − y (x w + b)),
             an inference step x w + b (batch, 1)
    """
    model = network(cell=cell, weights=weights)
    kernel, _ = model.trainable_variables
    slack_weight = spec.slack_weight(cell.workload.mapping)

    def loss_of(y: Any, outputs: Any) -> Any:
        slack = tf.nn.relu(1 - y * outputs)
        return tf.reduce_sum(tf.square(kernel)) / 2 + slack_weight * tf.reduce_mean(slack)

    return supervised(
        cell=cell,
        model=model,
        rule=spec.optimizer(cell.workload.mapping),
        loss_of=loss_of,
        inputs=batches["features"],
        targets=batches["targets"],
    )
