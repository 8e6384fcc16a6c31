"""The network in PyTorch: torch.nn layers, autograd, torch.optim.SGD.

source   github.com/pytorch/examples/tree/main/mnist, pytorch.org/tutorials/beginner/basics/optimization_tutorial.html
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from workloads.contract import Cell
from workloads.mnist_cnn import spec
from workloads.runtime import DTYPES, Array, Arrays, Program
from workloads.runtime.pytorch import device, wrap


def network(*, cell: Cell, weights: Arrays) -> Any:
    """Images (n, 1, 28, 28) to logits (n, 10), at the cell's precision, with the weights given (spec.SHAPES)."""
    dtype = getattr(torch, DTYPES[cell.precision].__name__)
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=0),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=0),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(5 * 5 * 64, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    ).to(device(cell), dtype)
    with torch.no_grad():
        for parameter, (name, array) in zip(model.parameters(), weights.items(), strict=True):
            parameter.copy_(torch.from_numpy(to_torch(name, array)))
    return model


def to_torch(name: str, array: Array) -> Array:
    """The spec's layout to PyTorch's: HWIO to OIHW, (in, out) to (out, in), a flattened HWC to a flattened CHW."""
    if name.startswith("conv") and array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif name == "dense1/kernel":
        array = array.reshape(5, 5, 64, 128).transpose(3, 2, 0, 1).reshape(128, -1)
    elif name == "dense2/kernel":
        array = array.T
    return np.ascontiguousarray(array)


def from_torch(name: str, array: Array) -> Array:
    """The inverse of `to_torch`; a copy."""
    if name.startswith("conv") and array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    elif name == "dense1/kernel":
        array = array.reshape(128, 64, 5, 5).transpose(2, 3, 1, 0).reshape(-1, 128)
    elif name == "dense2/kernel":
        array = array.T
    return array.copy()


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """Place one step on the device, ready to call.

    batches  images (count, batch, 28, 28, 1) float32 in [0, 1]; labels (count, batch) int64
    returns  Program; a training step gives the mean cross-entropy in nats, an inference step logits (batch, 10)
    """
    dtype = DTYPES[cell.precision]
    model = network(cell=cell, weights=weights)
    loss_of = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=spec.learning_rate(cell.workload.mapping), momentum=spec.momentum(cell.workload.mapping)
    )
    images = [torch.from_numpy(nchw(batch, dtype)).to(device(cell)) for batch in batches["images"]]
    labels = [torch.from_numpy(batch).to(device(cell)) for batch in batches["labels"]]

    def loss_and_gradients(x: Any, y: Any) -> tuple[Any, list[Any]]:
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        return loss.detach(), [parameter.grad for parameter in model.parameters()]

    def train(x: Any, y: Any) -> Any:
        loss, _ = loss_and_gradients(x, y)
        optimizer.step()
        return loss

    @torch.no_grad()
    def infer(x: Any, y: Any) -> Any:
        return model(x)

    def neutral(tensors: list[Any]) -> dict[str, Array]:
        arrays = (tensor.detach().cpu().numpy() for tensor in tensors)
        return {name: from_torch(name, array) for name, array in zip(spec.SHAPES, arrays, strict=True)}

    step = wrap(train if cell.phase == "train" else infer, cell.mode)
    probe = wrap(loss_and_gradients, cell.mode)
    return Program(
        parameter_count=sum(parameter.numel() for parameter in model.parameters()),
        step=lambda i: step(images[i % len(images)], labels[i % len(labels)]),
        gradients=lambda i: neutral(probe(images[i % len(images)], labels[i % len(labels)])[1]),
        outputs=lambda x: infer(torch.from_numpy(nchw(x, dtype)).to(device(cell)), None).cpu().numpy(),
        weights=lambda: neutral(list(model.parameters())),
        fetch=lambda value: value.cpu().numpy(),
    )


def nchw(images: Array, dtype: Any) -> Array:
    """NHWC to NCHW, contiguous; the pixels are the same since there is one channel."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype)
