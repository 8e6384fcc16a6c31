"""Linear regression in PyTorch: nn.Linear, autograd, torch.optim.SGD.

source   pytorch.org/tutorials/beginner/basics/optimization_tutorial.html
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from workloads.contract import Cell
from workloads.linear_regression import spec
from workloads.runtime import DTYPES, Array, Arrays, Program
from workloads.runtime.pytorch import device, wrap


def network(*, cell: Cell, weights: Arrays) -> Any:
    """ŷ = x w + b, at the cell's precision, with the weights given (weight (d, 1), bias (1,))."""
    dtype = getattr(torch, DTYPES[cell.precision].__name__)
    model = nn.Linear(len(weights["weight"]), 1).to(device(cell), dtype)
    model.load_state_dict({"weight": torch.from_numpy(weights["weight"].T), "bias": torch.from_numpy(weights["bias"])})
    return model


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """Place one step on the device, ready to call.

    batches  features (count, batch, d), targets (count, batch, 1), float32
    returns  Program; a training step gives the loss 1/(2n) Σ (y − ŷ)², an inference step ŷ (batch, 1)
    """
    dtype = DTYPES[cell.precision]
    model = network(cell=cell, weights=weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=spec.learning_rate(cell.workload.mapping))
    features = [torch.from_numpy(batch.astype(dtype)).to(device(cell)) for batch in batches["features"]]
    targets = [torch.from_numpy(batch.astype(dtype)).to(device(cell)) for batch in batches["targets"]]

    def loss_and_gradients(x: Any, y: Any) -> tuple[Any, list[Any]]:
        optimizer.zero_grad()
        loss = torch.mean(torch.square(model(x) - y)) / 2
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
        return {"weight": tensors[0].detach().cpu().numpy().T, "bias": tensors[1].detach().cpu().numpy()}

    step = wrap(train if cell.phase == "train" else infer, cell.mode)
    probe = wrap(loss_and_gradients, cell.mode)
    return Program(
        parameter_count=sum(parameter.numel() for parameter in model.parameters()),
        step=lambda i: step(features[i % len(features)], targets[i % len(targets)]),
        gradients=lambda i: neutral(probe(features[i % len(features)], targets[i % len(targets)])[1]),
        outputs=lambda x: infer(torch.from_numpy(x.astype(dtype)).to(device(cell)), None).cpu().numpy(),
        weights=lambda: {name: array.copy() for name, array in neutral(list(model.parameters())).items()},
        fetch=lambda value: value.cpu().numpy(),
    )
