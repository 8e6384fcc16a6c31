"""The network in TensorFlow: keras.layers.LSTM, GradientTape, keras.optimizers.Adam.

source   tensorflow.org/text/tutorials/text_generation, with an LSTM and without state between windows
"""

from __future__ import annotations

from typing import Any

import keras

from workloads.contract import Cell
from workloads.lstm_text import spec
from workloads.runtime import Arrays, Program
from workloads.runtime.tensorflow import set_precision
from workloads.training.tensorflow import cross_entropy, load, supervised


def network(*, cell: Cell, weights: Arrays) -> Any:
    """Characters (n, length) to logits (n, length, 27), at the cell's precision, with the weights given."""
    set_precision(cell.precision)
    characters, embedding = weights["token/embeddings"].shape
    width = len(weights["lstm/recurrent_kernel"])
    model = keras.Sequential([
        keras.Input((cell.workload.get("length"),), dtype="int64"),
        keras.layers.Embedding(characters, embedding, name="token"),
        keras.layers.LSTM(width, return_sequences=True, name="lstm"),
        keras.layers.Dense(characters, name="head"),
    ])  # fmt: skip
    load(model, weights)
    return model


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """Place one step on the device, ready to call.

    batches  characters and next_characters (count, batch, length) int64
    returns  Program; a training step gives the mean cross-entropy in nats a character,
             an inference step logits (batch, length, 27)
    """
    return supervised(
        cell=cell,
        model=network(cell=cell, weights=weights),
        rule=spec.optimizer(cell.workload.mapping),
        loss_of=cross_entropy,
        inputs=batches["characters"],
        targets=batches["next_characters"],
    )
