"""The network in NumPy float64, gradients written out, one function a layer and direction."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from workloads.contract import Cell
from workloads.mnist_cnn import spec
from workloads.runtime import DTYPES, Array, Arrays, Program


def conv(x: Array, kernel: Array, bias: Array) -> tuple[Array, Array]:
    """Valid cross-correlation: x (n, h, w, i), kernel (a, b, i, o) -> y (n, h−a+1, w−b+1, o), and the patches."""
    a, b, i, o = kernel.shape
    windows = sliding_window_view(x, (a, b), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    n, h, w = windows.shape[:3]
    patches = windows.reshape(n * h * w, a * b * i)
    return (patches @ kernel.reshape(-1, o)).reshape(n, h, w, o) + bias, patches


def conv_gradients(dy: Array, patches: Array, kernel: Array, height: int, width: int) -> tuple[Array, Array, Array]:
    """∂/∂x, ∂/∂kernel, ∂/∂bias from ∂/∂y (n, h, w, o): every patch's share is added back where it was read."""
    a, b, i, o = kernel.shape
    n, h, w, _ = dy.shape
    flat = dy.reshape(-1, o)
    shares = (flat @ kernel.reshape(-1, o).T).reshape(n, h, w, a, b, i)
    dx = np.zeros((n, height, width, i), dy.dtype)
    for row in range(a):
        for column in range(b):
            dx[:, row : row + h, column : column + w] += shares[:, :, :, row, column]
    return dx, (patches.T @ flat).reshape(kernel.shape), flat.sum(axis=0)


def pool(x: Array) -> tuple[Array, Array]:
    """Max over 2 × 2, an odd last row or column left out; and which of the four was the first largest."""
    n, h, w, c = x.shape
    quads = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
    quads = quads.transpose(0, 1, 3, 5, 2, 4).reshape(n, h // 2, w // 2, c, 4)
    winner = quads.argmax(axis=-1)[..., None]
    return np.take_along_axis(quads, winner, axis=-1)[..., 0], winner


def pool_gradient(dy: Array, winner: Array, shape: tuple[int, ...]) -> Array:
    """∂/∂x: each gradient goes to the element that won."""
    n, h, w, c = dy.shape
    quads = np.zeros((n, h, w, c, 4), dy.dtype)
    np.put_along_axis(quads, winner, dy[..., None], axis=-1)
    dx = np.zeros(shape, dy.dtype)
    dx[:, : h * 2, : w * 2] = quads.reshape(n, h, w, c, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(n, h * 2, w * 2, c)
    return dx


def cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Mean −log softmax at the label, in nats, and ∂/∂logits = (softmax − one-hot) / n."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    gradient = np.exp(log_softmax)
    gradient[rows, labels] -= 1
    return -log_softmax[rows, labels].mean(), gradient / len(labels)


def forward(model: Arrays, images: Array) -> tuple[Array, list[Array]]:
    """Logits (n, 10), and what the way back needs."""
    y1, patches1 = conv(images, model["conv1/kernel"], model["conv1/bias"])
    p1, winner1 = pool(np.maximum(y1, 0))
    y2, patches2 = conv(p1, model["conv2/kernel"], model["conv2/bias"])
    p2, winner2 = pool(np.maximum(y2, 0))
    flat = p2.reshape(len(images), -1)
    y3 = flat @ model["dense1/kernel"] + model["dense1/bias"]
    hidden = np.maximum(y3, 0)
    logits = hidden @ model["dense2/kernel"] + model["dense2/bias"]
    return logits, [y1, patches1, winner1, p1, y2, patches2, winner2, flat, y3, hidden]


def loss_and_gradients(model: Arrays, images: Array, labels: Array) -> tuple[Array, dict[str, Array]]:
    """The mean cross-entropy and its gradient by every weight."""
    logits, (y1, patches1, winner1, p1, y2, patches2, winner2, flat, y3, hidden) = forward(model, images)
    loss, d = cross_entropy(logits, labels)
    gradients = {"dense2/kernel": hidden.T @ d, "dense2/bias": d.sum(axis=0)}
    d = (d @ model["dense2/kernel"].T) * (y3 > 0)
    gradients |= {"dense1/kernel": flat.T @ d, "dense1/bias": d.sum(axis=0)}
    d = (d @ model["dense1/kernel"].T).reshape(*winner2.shape[:-1])
    d = pool_gradient(d, winner2, y2.shape) * (y2 > 0)
    d, kernel, bias = conv_gradients(d, patches2, model["conv2/kernel"], *p1.shape[1:3])
    gradients |= {"conv2/kernel": kernel, "conv2/bias": bias}
    d = pool_gradient(d, winner1, y1.shape) * (y1 > 0)
    _, kernel, bias = conv_gradients(d, patches1, model["conv1/kernel"], *images.shape[1:3])
    gradients |= {"conv1/kernel": kernel, "conv1/bias": bias}
    return loss, gradients


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """The same Program as the twins', eager, at the cell's precision (the certificate uses fp64)."""
    dtype = DTYPES[cell.precision]
    images, labels = batches["images"].astype(dtype), batches["labels"]
    model = {name: array.astype(dtype) for name, array in weights.items()}
    velocity = {name: np.zeros_like(array) for name, array in model.items()}
    rate, momentum = spec.learning_rate(cell.workload.mapping), spec.momentum(cell.workload.mapping)

    def train(x: Array, y: Array) -> Array:
        loss, gradients = loss_and_gradients(model, x, y)
        for name, gradient in gradients.items():
            velocity[name] = momentum * velocity[name] + gradient
            model[name] = model[name] - rate * velocity[name]
        return loss

    def infer(x: Array, y: Array) -> Array:
        return forward(model, x)[0]

    step = train if cell.phase == "train" else infer
    return Program(
        parameter_count=sum(array.size for array in model.values()),
        step=lambda i: step(images[i % len(images)], labels[i % len(labels)]),
        gradients=lambda i: loss_and_gradients(model, images[i % len(images)], labels[i % len(labels)])[1],
        outputs=lambda x: forward(model, x.astype(dtype))[0],
        weights=lambda: dict(model),
        fetch=np.asarray,
    )
