"""The network in TensorFlow: keras.layers.Conv1D, GradientTape, keras.optimizers.Adam.

source   Dai et al. 2017 (M5), doi:10.1109/ICASSP.2017.7952190, narrower and without its norms
"""

from __future__ import annotations

from typing import Any

import keras

from workloads.contract import Cell
from workloads.conv1d_audio import spec
from workloads.runtime import Arrays, Program
from workloads.runtime.tensorflow import set_precision
from workloads.training.tensorflow import cross_entropy, load, supervised


def network(*, cell: Cell, weights: Arrays) -> Any:
    """Waveforms (n, 4000, 1) to logits (n, 10), at the cell's precision, with the weights given (spec.SHAPES)."""
    set_precision(cell.precision)
    model = keras.Sequential([
        keras.Input((spec.SAMPLES, 1)),
        keras.layers.Conv1D(32, 80, strides=spec.STRIDE, padding="valid", name="conv1"),
        keras.layers.ReLU(),
        keras.layers.MaxPooling1D(4),
        keras.layers.Conv1D(32, 3, padding="valid", name="conv2"),
        keras.layers.ReLU(),
        keras.layers.MaxPooling1D(4),
        keras.layers.Conv1D(64, 3, padding="valid", name="conv3"),
        keras.layers.ReLU(),
        keras.layers.MaxPooling1D(4),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(spec.CLASSES, name="head"),
    ])  # fmt: skip
    load(model, weights)
    return model


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """Place one step on the device, ready to call.

    batches  waveforms (count, batch, 4000, 1) float32 in ± 1; labels (count, batch) int64
    returns  Program; a training step gives the mean cross-entropy in nats, an inference step logits (batch, 10)
    """
    return supervised(
        cell=cell,
        model=network(cell=cell, weights=weights),
        rule=spec.optimizer(cell.workload.mapping),
        loss_of=cross_entropy,
        inputs=batches["waveforms"],
        targets=batches["labels"],
    )
