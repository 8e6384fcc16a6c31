"""The recommender in PyTorch: nn.Embedding, autograd, torch.optim.Adam.

source   He et al. 2017, doi:10.1145/3038912.3052569
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from workloads.contract import Cell
from workloads.ncf import spec
from workloads.runtime import Arrays, Program
from workloads.runtime.pytorch import device, set_precision
from workloads.training.pytorch import load, supervised


class Network(nn.Module):
    """Pairs (n, 2) to scores (n, 1)."""

    def __init__(self, users: int, items: int, f: int) -> None:
        super().__init__()
        self.gmf_user, self.gmf_item = nn.Embedding(users, f), nn.Embedding(items, f)
        self.mlp_user, self.mlp_item = nn.Embedding(users, 2 * f), nn.Embedding(items, 2 * f)
        self.dense1, self.dense2 = nn.Linear(4 * f, 2 * f), nn.Linear(2 * f, f)
        self.relu = nn.ReLU()
        self.head = nn.Linear(2 * f, 1)

    def forward(self, pairs: Any) -> Any:
        """A score for every pair."""
        user, item = pairs[:, 0], pairs[:, 1]
        gmf = self.gmf_user(user) * self.gmf_item(item)
        mlp = torch.cat([self.mlp_user(user), self.mlp_item(item)], dim=-1)
        mlp = self.relu(self.dense2(self.relu(self.dense1(mlp))))
        return self.head(torch.cat([gmf, mlp], dim=-1))


def network(*, cell: Cell, weights: Arrays) -> Any:
    """Pairs (n, 2) to scores (n, 1), at the cell's precision, with the weights given (spec.shapes)."""
    set_precision(cell.precision)
    users, items, f = spec.sizes(cell.workload.mapping)
    model = Network(users, items, f).to(device(cell))
    load(model, weights)
    return model


def loss_of(y: Any, outputs: Any) -> Any:
    """The mean negative log-likelihood."""
    return nn.functional.binary_cross_entropy_with_logits(outputs, y)


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
