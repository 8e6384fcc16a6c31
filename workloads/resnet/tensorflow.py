"""The network in TensorFlow: Keras layers, GradientTape, keras.optimizers.SGD.

source   He et al. 2016, section 4.2, doi:10.1109/CVPR.2016.90; github.com/keras-team/keras-applications
"""

from __future__ import annotations

from typing import Any

import keras

from workloads.contract import Cell
from workloads.resnet import spec
from workloads.runtime import Arrays, Program
from workloads.runtime.tensorflow import set_precision
from workloads.training.tensorflow import cross_entropy, load, supervised


def network(*, cell: Cell, weights: Arrays) -> Any:
    """Images (n, 32, 32, 3) to logits (n, 10), at the cell's precision, with the weights given (spec.shapes)."""
    set_precision(cell.precision)
    images = keras.Input((spec.SIDE, spec.SIDE, spec.CHANNELS))
    x = keras.layers.ReLU()(_normed(images, "conv", spec.STAGES[0], size=3, stride=1))
    for block in spec.blocks(cell.workload.mapping):
        x = _block(x, block)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(images, keras.layers.Dense(spec.CLASSES, name="head")(x))
    load(model, weights)
    return model


def _block(x: Any, block: spec.Block) -> Any:
    y = keras.layers.ReLU()(_normed(x, f"{block.name}/conv1", block.channels, size=3, stride=block.stride))
    y = _normed(y, f"{block.name}/conv2", block.channels, size=3, stride=1)
    if block.projects:
        x = _normed(x, f"{block.name}/conv3", block.channels, size=1, stride=block.stride)
    return keras.layers.ReLU()(keras.layers.Add()([y, x]))


def _normed(x: Any, name: str, channels: int, *, size: int, stride: int) -> Any:
    if size == 3:  # padding="same" of a stride of 2 pads on one side only
        x = keras.layers.ZeroPadding2D(1)(x)
    path = name.replace("/", ".")
    x = keras.layers.Conv2D(channels, size, strides=stride, padding="valid", use_bias=False, name=path)(x)
    return keras.layers.BatchNormalization(momentum=spec.KEEP, epsilon=spec.EPSILON, name=path.replace("conv", "norm"))(
        x
    )


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """Place one step on the device, ready to call.

    batches  images (count, batch, 32, 32, 3) float32 in [0, 1]; labels (count, batch) int64
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
