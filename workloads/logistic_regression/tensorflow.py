"""Logistic regression in TensorFlow: a Keras Dense layer, GradientTape, keras.optimizers.SGD.

source   tensorflow.org/guide/core/logistic_regression_core
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from workloads.contract import Cell
from workloads.logistic_regression import spec
from workloads.runtime import Arrays, Program
from workloads.runtime.tensorflow import set_precision
from workloads.training.tensorflow import load, supervised


def network(*, cell: Cell, weights: Arrays) -> Any:
    """The logit z = x w + b, at the cell's precision, with the weights given."""
    set_precision(cell.precision)
    d = len(weights["linear/kernel"])
    model = keras.Sequential([keras.Input((d,)), keras.layers.Dense(1, name="linear")])
    load(model, weights)
    return model


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """Place one step on the device, ready to call.

    batches  features (count, batch, d), targets (count, batch, 1), float32
    returns  Program; a training step gives the mean negative log-likelihood in nats, an inference step σ(z) (batch, 1)
    """
    model = network(cell=cell, weights=weights)

    def loss_of(y: Any, outputs: Any) -> Any:
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=outputs))

    return supervised(
        cell=cell,
        model=model,
        rule=spec.optimizer(cell.workload.mapping),
        loss_of=loss_of,
        inputs=batches["features"],
        targets=batches["targets"],
        head=tf.sigmoid,
    )
