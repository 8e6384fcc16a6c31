"""Logistic regression in PyTorch: nn.Linear, autograd, torch.optim.SGD.

source   pytorch.org/tutorials/beginner/basics/optimization_tutorial.html
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from workloads.contract import Cell
from workloads.logistic_regression import spec
from workloads.runtime import Arrays, Program
from workloads.runtime.pytorch import device, set_precision
from workloads.training.pytorch import load, supervised


def network(*, cell: Cell, weights: Arrays) -> Any:
    """The logit z = x w + b, at the cell's precision, with the weights given."""
    set_precision(cell.precision)
    d = len(weights["linear/kernel"])
    model = nn.Linear(d, 1).to(device(cell))
    load(model, weights)
    return model


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """Place one step on the device, ready to call.

    batches  features (count, batch, d), targets (count, batch, 1), float32
    returns  Program; a training step gives the mean negative log-likelihood in nats, an inference step σ(z) (batch, 1)
    """
    model = network(cell=cell, weights=weights)

    def loss_of(y: Any, outputs: Any) -> Any:
        return nn.functional.binary_cross_entropy_with_logits(outputs, y)

    return supervised(
        cell=cell,
        model=model,
        rule=spec.optimizer(cell.workload.mapping),
        loss_of=loss_of,
        inputs=batches["features"],
        targets=batches["targets"],
        head=torch.sigmoid,
    )
