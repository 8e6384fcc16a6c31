"""The network in PyTorch: nn.Conv1d, autograd, torch.optim.Adam.

source   PyTorch's tutorial "Speech Command Classification with torchaudio" (M5), narrower and without its norms
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from workloads.contract import Cell
from workloads.conv1d_audio import spec
from workloads.runtime import Array, Arrays, Program
from workloads.runtime.pytorch import device, set_precision
from workloads.training.pytorch import cross_entropy, load, supervised


def network(*, cell: Cell, weights: Arrays) -> Any:
    """Waveforms (n, 1, 4000) to logits (n, 10), at the cell's precision, with the weights given (spec.SHAPES)."""
    set_precision(cell.precision)
    model = nn.Sequential(OrderedDict(
        conv1=nn.Conv1d(1, 32, 80, stride=spec.STRIDE),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool1d(4),
        conv2=nn.Conv1d(32, 32, 3),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool1d(4),
        conv3=nn.Conv1d(32, 64, 3),
        relu3=nn.ReLU(),
        pool3=nn.MaxPool1d(4),
        average=nn.AdaptiveAvgPool1d(1),
        flatten=nn.Flatten(),
        head=nn.Linear(64, spec.CLASSES),
    )).to(device(cell))  # fmt: skip
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
        loss_of=cross_entropy(),
        inputs=batches["waveforms"],
        targets=batches["labels"],
        given=ncl,
    )


def ncl(waveforms: Array) -> Array:
    """(n, length, channel) to (n, channel, length)."""
    return waveforms.transpose(0, 2, 1)
