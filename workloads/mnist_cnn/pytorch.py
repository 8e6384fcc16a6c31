"""The network in PyTorch: torch.nn layers, autograd, torch.optim.SGD.

source   github.com/pytorch/examples/tree/main/mnist, pytorch.org/tutorials/beginner/basics/optimization_tutorial.html
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from torch import nn

from workloads.contract import Cell
from workloads.mnist_cnn import spec
from workloads.runtime import Array, Arrays, Program
from workloads.runtime.pytorch import device, set_precision
from workloads.training import pytorch as training
from workloads.training.pytorch import cross_entropy, load, nchw, supervised


def network(*, cell: Cell, weights: Arrays) -> Any:
    """Images (n, 1, 28, 28) to logits (n, 10), at the cell's precision, with the weights given (spec.SHAPES)."""
    set_precision(cell.precision)
    model = nn.Sequential(OrderedDict(
        conv1=nn.Conv2d(1, 32, 3, padding=0),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(32, 64, 3, padding=0),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        dense1=nn.Linear(5 * 5 * 64, 128),
        relu3=nn.ReLU(),
        dense2=nn.Linear(128, 10),
    )).to(device(cell))  # fmt: skip
    load(model, weights, layout=to_torch)
    return model


def to_torch(name: str, array: Array) -> Array:
    """The spec's layout to PyTorch's; a flattened (h, w, c) is not a flattened (c, h, w)."""
    if name == "dense1/kernel":
        return np.ascontiguousarray(array.reshape(5, 5, 64, 128).transpose(3, 2, 0, 1).reshape(128, -1))
    return training.to_torch(name, array)


def from_torch(name: str, array: Array) -> Array:
    """The inverse of `to_torch`; a copy."""
    if name == "dense1/kernel":
        return array.reshape(128, 64, 5, 5).transpose(2, 3, 1, 0).reshape(-1, 128).copy()
    return training.from_torch(name, array)


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """Place one step on the device, ready to call.

    batches  images (count, batch, 28, 28, 1) float32 in [0, 1]; labels (count, batch) int64
    returns  Program; a training step gives the mean cross-entropy in nats, an inference step logits (batch, 10)
    """
    return supervised(
        cell=cell,
        model=network(cell=cell, weights=weights),
        rule=spec.optimizer(cell.workload.mapping),
        loss_of=cross_entropy(),
        inputs=batches["images"],
        targets=batches["labels"],
        given=nchw,
        layout=from_torch,
    )
