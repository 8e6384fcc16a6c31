"""The recommender in TensorFlow: keras.layers.Embedding, GradientTape, keras.optimizers.Adam.

source   He et al. 2017, doi:10.1145/3038912.3052569;
         keras.io/examples/structured_data/collaborative_filtering_movielens
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from workloads.contract import Cell
from workloads.ncf import spec
from workloads.runtime import Arrays, Program
from workloads.runtime.tensorflow import set_precision
from workloads.training.tensorflow import load, supervised


def network(*, cell: Cell, weights: Arrays) -> Any:
    """Pairs (n, 2) to scores (n, 1), at the cell's precision, with the weights given (spec.shapes)."""
    set_precision(cell.precision)
    users, items, f = spec.sizes(cell.workload.mapping)
    pairs = keras.Input((2,), dtype="int64")
    user, item = pairs[:, 0], pairs[:, 1]
    gmf = keras.layers.Multiply()([
        keras.layers.Embedding(users, f, name="gmf_user")(user),
        keras.layers.Embedding(items, f, name="gmf_item")(item),
    ])  # fmt: skip
    mlp = keras.layers.Concatenate()([
        keras.layers.Embedding(users, 2 * f, name="mlp_user")(user),
        keras.layers.Embedding(items, 2 * f, name="mlp_item")(item),
    ])  # fmt: skip
    mlp = keras.layers.ReLU()(keras.layers.Dense(2 * f, name="dense1")(mlp))
    mlp = keras.layers.ReLU()(keras.layers.Dense(f, name="dense2")(mlp))
    model = keras.Model(pairs, keras.layers.Dense(1, name="head")(keras.layers.Concatenate()([gmf, mlp])))
    load(model, weights)
    return model


def loss_of(y: Any, outputs: Any) -> Any:
    """The mean negative log-likelihood."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=outputs))


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """Place one step on the device, ready to call.

    batches  pairs of user and item (count, batch, 2) int64; labels 0 or 1 (count, batch, 1) float32
    returns  Program; a training step gives the mean negative log-likelihood in nats,
             an inference step scores (batch, 1)
    """
    return supervised(
        cell=cell,
        model=network(cell=cell, weights=weights),
        rule=spec.optimizer(cell.workload.mapping),
        loss_of=loss_of,
        inputs=batches["pairs"],
        targets=batches["labels"],
    )
