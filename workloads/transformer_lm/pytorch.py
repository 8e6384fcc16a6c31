"""The network in PyTorch: scaled_dot_product_attention, autograd, torch.optim.Adam.

source   github.com/karpathy/nanoGPT,
         docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from workloads.contract import Cell
from workloads.runtime import Array, Arrays, Program
from workloads.runtime.pytorch import device, set_precision
from workloads.training import pytorch as training
from workloads.training.pytorch import cross_entropy_of_places, load, supervised
from workloads.transformer_lm import spec


class Attention(nn.Module):
    """Causal attention of several heads, with projections of their own for query, key and value as Keras has them."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.attention_output = nn.Linear(width, width, bias=False)

    def forward(self, x: Any) -> Any:
        """X (n, length, width)."""
        split = (*x.shape[:2], self.heads, -1)
        q, k, v = (part(x).view(split).transpose(1, 2) for part in (self.query, self.key, self.value))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.attention_output(y.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """x ← x + attention(norm(x)),  x ← x + dense(gelu(dense(norm(x))))."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=spec.EPSILON)
        self.attention = Attention(heads, width)
        self.norm2 = nn.LayerNorm(width, eps=spec.EPSILON)
        self.dense1 = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU(approximate="tanh")
        self.dense2 = nn.Linear(4 * width, width)

    def forward(self, x: Any) -> Any:
        """X (n, length, width)."""
        x = x + self.attention(self.norm1(x))
        return x + self.dense2(self.gelu(self.dense1(self.norm2(x))))


class Network(nn.Module):
    """Characters (n, length) to logits (n, length, 27)."""

    def __init__(self, length: int, layers: int, heads: int, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(spec.CHARACTERS, width)
        self.position = nn.Embedding(length, width)
        self.blocks = [f"block{i}" for i in range(1, layers + 1)]
        for block in self.blocks:
            self.add_module(block, Block(heads, width))
        self.norm = nn.LayerNorm(width, eps=spec.EPSILON)
        self.head = nn.Linear(width, spec.CHARACTERS)

    def forward(self, x: Any) -> Any:
        """Every place's logits for the character after it."""
        x = self.token(x) + self.position.weight
        for block in self.blocks:
            x = getattr(self, block)(x)
        return self.head(self.norm(x))


def network(*, cell: Cell, weights: Arrays) -> Any:
    """Characters (n, length) to logits (n, length, 27), at the cell's precision, with the weights given."""
    set_precision(cell.precision)
    model = Network(*spec.sizes(cell.workload.mapping)).to(device(cell))
    load(model, weights, layout=to_torch)
    return model


def to_torch(name: str, array: Array) -> Array:
    """The spec's layout to PyTorch's, whose attention keeps its heads side by side in one matrix."""
    if name.endswith("attention_output/kernel"):
        array = array.reshape(-1, array.shape[-1])
    elif is_split(name):
        array = array.reshape(*array.shape[:-2], -1)
    return training.to_torch(name, array)


def is_split(name: str) -> bool:
    """Whether the spec cuts the last axis into heads: the kernels of query, key and value."""
    return "/attention/" in name and "/attention_output/" not in name


def from_torch(name: str, array: Array, *, heads: int) -> Array:
    """The inverse of `to_torch` for this many heads; a copy."""
    array = training.from_torch(name, array)
    if name.endswith("attention_output/kernel"):
        return array.reshape(heads, -1, array.shape[-1])
    return array.reshape(*array.shape[:-1], heads, -1) if is_split(name) else array


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
        layout=partial(from_torch, heads=spec.sizes(cell.workload.mapping)[2]),
    )
