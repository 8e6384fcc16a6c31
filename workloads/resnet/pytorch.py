"""The network in PyTorch: torch.nn layers, autograd, torch.optim.SGD.

source   He et al. 2016, section 4.2, doi:10.1109/CVPR.2016.90;
         github.com/pytorch/vision/blob/main/torchvision/models/resnet.py
"""

from __future__ import annotations

from typing import Any

from torch import nn

from workloads.contract import Cell
from workloads.resnet import spec
from workloads.runtime import Arrays, Program
from workloads.runtime.pytorch import device, set_precision
from workloads.training.pytorch import cross_entropy, load, nchw, supervised


class Block(nn.Module):
    """ReLU(norm(conv(ReLU(norm(conv(x))))) + x), or + norm(conv(x))."""

    def __init__(self, block: spec.Block) -> None:
        super().__init__()
        inside, outside, stride = block.channels_in, block.channels, block.stride
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.norm1 = norm(outside)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.norm2 = norm(outside)
        self.projects = block.projects
        if block.projects:
            self.conv3 = nn.Conv2d(inside, outside, 1, stride=stride, bias=False)
            self.norm3 = norm(outside)

    def forward(self, x: Any) -> Any:
        """X (n, channels, height, width)."""
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(y + (self.norm3(self.conv3(x)) if self.projects else x))


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm; its momentum is what is new, Keras' what is kept."""
    return nn.BatchNorm2d(channels, eps=spec.EPSILON, momentum=1 - spec.KEEP)


class Network(nn.Module):
    """Images (n, 3, 32, 32) to logits (n, 10)."""

    def __init__(self, blocks: list[spec.Block]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(spec.CHANNELS, spec.STAGES[0], 3, padding=1, bias=False)
        self.norm = norm(spec.STAGES[0])
        self.relu = nn.ReLU()
        for stage in sorted({block.name.partition("/")[0] for block in blocks}):
            self.add_module(stage, nn.Sequential())
        for block in blocks:
            stage, _, name = block.name.partition("/")
            getattr(self, stage).add_module(name, Block(block))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(spec.STAGES[-1], spec.CLASSES)

    def forward(self, x: Any) -> Any:
        """X (n, 3, 32, 32)."""
        x = self.relu(self.norm(self.conv(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.head(self.flatten(self.pool(x)))


def network(*, cell: Cell, weights: Arrays) -> Any:
    """Images (n, 3, 32, 32) to logits (n, 10), at the cell's precision, with the weights given (spec.shapes)."""
    set_precision(cell.precision)
    model = Network(list(spec.blocks(cell.workload.mapping))).to(device(cell))
    load(model, weights)
    return model


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """Place one step on the device, ready to call.

    batches  images (count, batch, 32, 32, 3) float32 in [0, 1]; labels (count, batch) int64
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
    )
