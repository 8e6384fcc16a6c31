"""The network in PyTorch: nn.LSTM, autograd, torch.optim.Adam.

source   github.com/pytorch/examples/tree/main/word_language_model, over characters and without dropout
"""

from __future__ import annotations

from typing import Any

from torch import nn

from workloads.contract import Cell
from workloads.lstm_text import spec
from workloads.runtime import Arrays, Program
from workloads.runtime.pytorch import device, set_precision
from workloads.training.pytorch import cross_entropy_of_places, load, supervised


class Network(nn.Module):
    """Characters (n, length) to logits (n, length, 27)."""

    def __init__(self, characters: int, embedding: int, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(characters, embedding)
        self.lstm = nn.LSTM(embedding, width, batch_first=True)
        self.head = nn.Linear(width, characters)
        # PyTorch adds two biases where one is meant: both in training would move at twice the learning rate.
        nn.init.zeros_(self.lstm.bias_hh_l0.requires_grad_(False))

    def forward(self, x: Any) -> Any:
        """Every place's logits for the character after it."""
        hidden, _ = self.lstm(self.token(x))
        return self.head(hidden)


def network(*, cell: Cell, weights: Arrays) -> Any:
    """Characters (n, length) to logits (n, length, 27), at the cell's precision, with the weights given."""
    set_precision(cell.precision)
    characters, embedding = weights["token/embeddings"].shape
    width = len(weights["lstm/recurrent_kernel"])
    model = Network(characters, embedding, width).to(device(cell))
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
        loss_of=cross_entropy_of_places(),
        inputs=batches["characters"],
        targets=batches["next_characters"],
    )
