"""One training step in PyTorch: autograd and torch.optim, around an nn.Module.

source   pytorch.org/tutorials/beginner/basics/optimization_tutorial.html
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from workloads.contract import Cell
from workloads.runtime import DTYPES, Array, Arrays, Program, at_precision
from workloads.runtime.pytorch import device, wrap
from workloads.training import Rule

KERNEL = {"weight": "kernel", "bias": "bias"}
SCALE = {"weight": "gamma", "bias": "beta"}
# What the spec calls a module's tensors. Those that it does not name (a second bias of zeros, a count) stay inside.
TERMS: dict[type, dict[str, str]] = {
    nn.Linear: KERNEL,
    nn.Conv1d: KERNEL,
    nn.Conv2d: KERNEL,
    nn.Embedding: {"weight": "embeddings"},
    nn.LayerNorm: SCALE,
    nn.BatchNorm2d: SCALE | {"running_mean": "moving_mean", "running_var": "moving_variance"},
    nn.LSTM: {"weight_ih_l0": "kernel", "weight_hh_l0": "recurrent_kernel", "bias_ih_l0": "bias"},
}
BARE = "linear"  # the name of a model that is one layer
# From the spec's layout: (in, out), (length, in, out), (height, width, in, out); and the way back.
TO_TORCH = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}
FROM_TORCH = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}

Layout = Callable[[str, Array], Array]


def to_torch(name: str, array: Array) -> Array:
    """The spec's layout to PyTorch's: kernels alone differ, whose outputs come first here."""
    return np.ascontiguousarray(array.transpose(TO_TORCH[array.ndim])) if name.endswith("kernel") else array


def from_torch(name: str, array: Array) -> Array:
    """The inverse of `to_torch`; a copy."""
    return array.transpose(FROM_TORCH[array.ndim]).copy() if name.endswith("kernel") else array.copy()


def named(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor of the model by the spec's name."""
    found: dict[str, torch.Tensor] = {}
    for path, module in model.named_modules():
        for kind, terms in TERMS.items():
            if isinstance(module, kind):
                place = path.replace(".", "/") or BARE
                tensors = {term: getattr(module, attribute) for attribute, term in terms.items()}
                found |= {f"{place}/{term}": tensor for term, tensor in tensors.items() if tensor is not None}
    return found


def load(model: nn.Module, weights: Arrays, *, layout: Layout = to_torch) -> None:
    """Give every tensor its weight. Raises ValueError or RuntimeError: other names or other shapes than the spec's."""
    tensors = named(model)
    if set(tensors) != set(weights):
        raise ValueError(f"the model's tensors are not the spec's: {sorted(set(tensors) ^ set(weights))}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            array = layout(name, weights[name])
            if tuple(tensor.shape) != array.shape:
                raise ValueError(f"{name} has the shape {tuple(tensor.shape)} in the model, {array.shape} in the spec")
            tensor.copy_(torch.from_numpy(array))


class GradientDescent:
    """θ ← θ − α g, written out."""

    def __init__(self, rule: Rule, parameters: Sequence[Any]) -> None:
        self.rate, self.parameters = rule.learning_rate, parameters

    def zero_grad(self) -> None:
        """The gradients of the next step are its own."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step along the gradients that the parameters hold."""
        for parameter in self.parameters:
            parameter.sub_(self.rate * parameter.grad)


def optimizer(rule: Rule, parameters: Sequence[Any]) -> tuple[Any, Callable[[], None] | None]:
    """What has zero_grad and step; and what goes before every step, outside of what is compiled."""
    if rule.name == "gradient_descent":
        return GradientDescent(rule, parameters), None
    if rule.name == "sgd":
        return torch.optim.SGD(parameters, lr=rule.learning_rate, momentum=rule.momentum), None
    # A tensor, so that a value that changes with every step is no new program to torch.compile.
    eps = torch.tensor(rule.epsilon, dtype=parameters[0].dtype, device=parameters[0].device)
    adam = torch.optim.Adam(parameters, lr=rule.learning_rate, betas=(rule.beta1, rule.beta2), eps=eps)
    steps = 0

    def before() -> None:
        nonlocal steps
        steps += 1
        eps.fill_(rule.epsilon / math.sqrt(1 - rule.beta2**steps))

    return adam, before


class MovingVariances:
    """The moving variances of batch norms as the spec means them: of variances over n places divided by n.

    PyTorch divides by n − 1. A moving figure is a sum over steps that begins with its start, so that what it would have
    been follows from what it is, without a word in the timed step.
    """

    def __init__(self, model: nn.Module, x: Any) -> None:
        self.norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        self.starts = [norm.running_var.clone() for norm in self.norms]
        self.places: dict[nn.Module, int] = {}
        if self.norms:
            self._count(model, x)

    def _count(self, model: nn.Module, x: Any) -> None:
        """Over how many places each norm takes its mean, seen in one pass that changes nothing."""

        def note(norm: nn.Module, inputs: tuple[Any]) -> None:
            self.places[norm] = inputs[0].numel() // inputs[0].shape[1]

        hooks = [norm.register_forward_pre_hook(note) for norm in self.norms]
        with torch.no_grad():
            model.eval()(x)
        for hook in hooks:
            hook.remove()

    @contextmanager
    def biased(self) -> Iterator[None]:
        """Inside, the model holds the variances that the spec means."""
        kept = [norm.running_var.clone() for norm in self.norms]
        for norm, start, now in zip(self.norms, self.starts, kept, strict=True):
            begun = start * (1 - norm.momentum) ** int(norm.num_batches_tracked)
            norm.running_var.copy_(begun + (now - begun) * (1 - 1 / self.places[norm]))
        try:
            yield
        finally:
            for norm, now in zip(self.norms, kept, strict=True):
                norm.running_var.copy_(now)


def supervised(
    *,
    cell: Cell,
    model: Any,
    rule: Rule,
    loss_of: Callable[[Any, Any], Any],
    inputs: Array,
    targets: Array,
    head: Callable[[Any], Any] = lambda outputs: outputs,
    given: Callable[[Array], Array] = lambda x: x,
    layout: Layout = from_torch,
) -> Program:
    """Place one step on the device, ready to call; the model already holds the spec's weights.

    loss_of          (targets, outputs) -> the scalar loss
    inputs, targets  (count, batch, …)
    head             of an inference: the model's outputs -> what is given out
    given            a batch of inputs in the spec's layout -> PyTorch's
    layout           (name, array) -> the spec's layout of a tensor of this name
    """
    dtype = DTYPES[cell.precision]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    descent, before = optimizer(rule, trainable)
    xs: list[Any] = []
    ys: list[Any] = []

    def give(inputs: Array, targets: Array) -> None:
        xs[:] = [placed(cell, given(at_precision(batch, dtype))) for batch in inputs]
        ys[:] = [placed(cell, at_precision(batch, dtype)) for batch in targets]

    give(inputs, targets)
    moving = MovingVariances(model, xs[0])
    model.train(cell.phase == "train")

    def loss_and_gradients(x: Any, y: Any) -> tuple[Any, list[Any]]:
        descent.zero_grad()
        loss = loss_of(y, model(x))
        loss.backward()
        return loss.detach(), [parameter.grad for parameter in trainable]

    def train(x: Any, y: Any) -> Any:
        loss, _ = loss_and_gradients(x, y)
        descent.step()
        return loss

    @torch.no_grad()
    def infer(x: Any, y: Any) -> Any:
        return head(model(x))

    step = wrap(train if cell.phase == "train" else infer, cell.mode)
    probe = wrap(loss_and_gradients, cell.mode)

    before = before if cell.phase == "train" else None

    def stepped(i: int) -> Any:
        if before:
            before()
        return step(xs[i % len(xs)], ys[i % len(ys)])

    def gradients(i: int, *, eager: bool = False) -> dict[str, Array]:
        kept = [buffer.clone() for buffer in model.buffers()]
        _, found = (loss_and_gradients if eager else probe)(xs[i % len(xs)], ys[i % len(ys)])
        for buffer, value in zip(model.buffers(), kept, strict=True):
            buffer.copy_(value)
        by_tensor = {id(parameter): gradient for parameter, gradient in zip(trainable, found, strict=True)}
        return {
            name: layout(name, by_tensor[id(tensor)].cpu().numpy())
            for name, tensor in named(model).items()
            if id(tensor) in by_tensor
        }

    def outputs(x: Array) -> Array:
        model.eval()
        with moving.biased():
            found: Array = infer(placed(cell, given(at_precision(x, dtype))), None).cpu().numpy()
        model.train(cell.phase == "train")
        return found

    def weights() -> dict[str, Array]:
        with moving.biased():
            return {name: layout(name, one.detach().cpu().numpy()) for name, one in named(model).items()}

    return Program(
        parameter_count=sum(parameter.numel() for parameter in trainable),
        step=stepped,
        give=give,
        gradients=gradients,
        outputs=outputs,
        weights=weights,
        fetch=lambda value: value.cpu().numpy(),
    )


def cross_entropy() -> Callable[[Any, Any], Any]:
    """(labels (n,), logits (n, classes)) -> the mean of −log softmax at the label, in nats."""
    loss = nn.CrossEntropyLoss()
    return lambda y, outputs: loss(outputs, y)


def cross_entropy_of_places() -> Callable[[Any, Any], Any]:
    """The same over all places of a sequence: labels (n, length), logits (n, length, classes)."""
    loss = nn.CrossEntropyLoss()
    return lambda y, outputs: loss(outputs.flatten(0, 1), y.flatten())


def nchw(images: Array) -> Array:
    """(n, height, width, channel) to (n, channel, height, width)."""
    return images.transpose(0, 3, 1, 2)


def placed(cell: Cell, array: Array) -> Any:
    """The array as a tensor on the cell's device."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device(cell))
