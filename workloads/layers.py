"""Layers in NumPy, gradients written out: what the references are put together from.

A layer is x -> (y, back), and back takes ∂loss/∂y and a dictionary, in which it leaves the gradients of its own weights
under the spec's names, and gives ∂loss/∂x. Weights are looked up in the model by the layer's name.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from workloads.runtime import Array, Arrays

Gradients = dict[str, Array]
Back = Callable[[Array, Gradients], Array]
Layer = Callable[[Array], tuple[Array, Back]]


def sequence(*layers: Layer) -> Layer:
    """One layer after the other."""

    def forward(x: Array) -> tuple[Array, Back]:
        backs: list[Back] = []
        for layer in layers:
            x, back = layer(x)
            backs.append(back)
        return x, _reversed(backs)

    return forward


def _reversed(backs: list[Back]) -> Back:
    def back(d: Array, gradients: Gradients) -> Array:
        for one in reversed(backs):
            d = one(d, gradients)
        return d

    return back


def residual(main: Layer, shortcut: Layer | None = None) -> Layer:
    """main(x) + shortcut(x), or main(x) + x."""

    def forward(x: Array) -> tuple[Array, Back]:
        y, back = main(x)
        if shortcut is None:
            return y + x, lambda d, gradients: back(d, gradients) + d
        z, back_of_shortcut = shortcut(x)
        return y + z, lambda d, gradients: back(d, gradients) + back_of_shortcut(d, gradients)

    return forward


def dense(model: Arrays, name: str) -> Layer:
    """X (…, in) -> x K + b (…, out): ∂/∂K = Σ xᵀ d, ∂/∂b = Σ d, ∂/∂x = d Kᵀ."""
    kernel, bias = model[f"{name}/kernel"], model[f"{name}/bias"]

    def forward(x: Array) -> tuple[Array, Back]:
        def back(d: Array, gradients: Gradients) -> Array:
            rows = d.reshape(-1, d.shape[-1])
            gradients[f"{name}/kernel"] = x.reshape(-1, x.shape[-1]).T @ rows
            gradients[f"{name}/bias"] = rows.sum(axis=0)
            return np.asarray(d @ kernel.T)

        return x @ kernel + bias, back

    return forward


def relu(x: Array) -> tuple[Array, Back]:
    """max(0, x)."""
    return np.maximum(x, 0), lambda d, _: d * (x > 0)


def gelu(x: Array) -> tuple[Array, Back]:
    """½ x (1 + tanh u), u = √(2/π) (x + 0.044715 x³): the approximation by tanh.

    source  Hendrycks & Gimpel 2016, section 2
    """
    scale, cubic = np.sqrt(2 / np.pi), 0.044715
    t = np.tanh(scale * (x + cubic * x**3))
    slope = 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * scale * (1 + 3 * cubic * x**2)
    return 0.5 * x * (1 + t), lambda d, _: d * slope


def flatten(x: Array) -> tuple[Array, Back]:
    """(n, …) -> (n, all the rest)."""
    return x.reshape(len(x), -1), lambda d, _: d.reshape(x.shape)


def padded(width: int) -> Layer:
    """Zeros around height and width of (n, h, w, c)."""
    inner = slice(width, -width)

    def forward(x: Array) -> tuple[Array, Back]:
        y = np.pad(x, ((0, 0), (width, width), (width, width), (0, 0)))
        return y, lambda d, _: d[:, inner, inner]

    return forward


def convolution(model: Arrays, name: str, *, stride: int = 1) -> Layer:
    """Valid cross-correlation along one axis or two, by patches.

    X (n, l, i) with a kernel (k, i, o), or x (n, h, w, i) with a kernel (a, b, i, o); a bias where the model has one.
    """
    kernel, bias = model[f"{name}/kernel"], model.get(f"{name}/bias")
    *field, _, out = kernel.shape
    axes = tuple(range(1, 1 + len(field)))
    steps = (slice(None), *[slice(None, None, stride)] * len(field))
    order = (0, *axes, *range(len(field) + 2, 2 * len(field) + 2), len(field) + 1)

    def forward(x: Array) -> tuple[Array, Back]:
        windows = sliding_window_view(x, tuple(field), axis=axes)[steps].transpose(order)
        places = windows.shape[: 1 + len(field)]
        patches = windows.reshape(int(np.prod(places)), -1)
        y = (patches @ kernel.reshape(-1, out)).reshape(*places, out)

        def back(d: Array, gradients: Gradients) -> Array:
            flat = d.reshape(-1, out)
            gradients[f"{name}/kernel"] = (patches.T @ flat).reshape(kernel.shape)
            if bias is not None:
                gradients[f"{name}/bias"] = flat.sum(axis=0)
            shares = (flat @ kernel.reshape(-1, out).T).reshape(windows.shape)
            return _added_back(shares, x.shape, field, stride)

        return (y if bias is None else y + bias), back

    return forward


def _added_back(shares: Array, shape: tuple[int, ...], field: list[int], stride: int) -> Array:
    """Every patch's share of ∂loss/∂x is added where it was read."""
    dx = np.zeros(shape, shares.dtype)
    sizes = shares.shape[1 : 1 + len(field)]
    for offset in np.ndindex(*field):
        read = tuple(slice(at, at + stride * (size - 1) + 1, stride) for at, size in zip(offset, sizes, strict=True))
        dx[(slice(None), *read)] += shares[(..., *offset, slice(None))]
    return dx


def max_pool(size: int, axes: int) -> Layer:
    """Max over `size` along one axis or two; what fills no pool is left out, the first largest gets the gradient."""

    def forward(x: Array) -> tuple[Array, Back]:
        n, *lengths, channels = x.shape
        pools = [length // size for length in lengths]
        used = (slice(None), *[slice(pool * size) for pool in pools])
        split = x[used].reshape(n, *[part for pool in pools for part in (pool, size)], channels)
        inner = [2 + 2 * axis for axis in range(axes)]
        outer = [0, *[1 + 2 * axis for axis in range(axes)], 1 + 2 * axes]
        gathered = split.transpose(*outer, *inner)
        flat = gathered.reshape(n, *pools, channels, size**axes)
        winner = flat.argmax(axis=-1)[..., None]

        def back(d: Array, gradients: Gradients) -> Array:
            spread = np.zeros(flat.shape, d.dtype)
            np.put_along_axis(spread, winner, d[..., None], axis=-1)
            dx = np.zeros(x.shape, d.dtype)
            dx[used] = spread.reshape(gathered.shape).transpose(np.argsort([*outer, *inner])).reshape(x[used].shape)
            return dx

        return np.take_along_axis(flat, winner, axis=-1)[..., 0], back

    return forward


def global_average(x: Array) -> tuple[Array, Back]:
    """The mean over all axes but the first and the last: (n, …, c) -> (n, c)."""
    axes = tuple(range(1, x.ndim - 1))
    count = int(np.prod(x.shape[1:-1]))
    return x.mean(axis=axes), lambda d, _: np.broadcast_to(np.expand_dims(d, axes) / count, x.shape)


def embedding(model: Arrays, name: str) -> Layer:
    """Whole numbers (…) -> rows of a table (…, width); the same row asked for twice gets both gradients."""
    table = model[f"{name}/embeddings"]

    def forward(x: Array) -> tuple[Array, Back]:
        def back(d: Array, gradients: Gradients) -> Array:
            found = np.zeros_like(table)
            np.add.at(found, x.ravel(), d.reshape(-1, d.shape[-1]))
            gradients[f"{name}/embeddings"] = found
            return np.zeros(x.shape)

        return table[x], back

    return forward


def added(model: Arrays, name: str) -> Layer:
    """X (n, t, width) + a learned row for every place."""

    def forward(x: Array) -> tuple[Array, Back]:
        def back(d: Array, gradients: Gradients) -> Array:
            gradients[f"{name}/embeddings"] = d.sum(axis=0)
            return d

        return x + model[f"{name}/embeddings"], back

    return forward


def _standardised(x: Array, mean: Array, variance: Array, epsilon: float, axes: tuple[int, ...]) -> tuple[Array, Back]:
    """(x − mean) / √(variance + ε), both taken over `axes` of x itself."""
    inverse = 1 / np.sqrt(variance + epsilon)
    y = (x - mean) * inverse

    def back(d: Array, gradients: Gradients) -> Array:
        centred = d - d.mean(axis=axes, keepdims=True) - y * (d * y).mean(axis=axes, keepdims=True)
        return np.asarray(inverse * centred)

    return y, back


def _scaled(model: Arrays, name: str, y: Array, back: Back) -> tuple[Array, Back]:
    """Scaled and shifted along the last axis: γ y + β."""

    def scaled_back(d: Array, gradients: Gradients) -> Array:
        axes = tuple(range(d.ndim - 1))
        gradients[f"{name}/gamma"] = (d * y).sum(axis=axes)
        gradients[f"{name}/beta"] = d.sum(axis=axes)
        return back(d * model[f"{name}/gamma"], gradients)

    return y * model[f"{name}/gamma"] + model[f"{name}/beta"], scaled_back


def layer_norm(model: Arrays, name: str, *, epsilon: float) -> Layer:
    """Each position standardised over its own features, then γ y + β.

    source  Ba, Kiros & Hinton 2016
    """

    def forward(x: Array) -> tuple[Array, Back]:
        mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
        return _scaled(model, name, *_standardised(x, mean, variance, epsilon, (-1,)))

    return forward


def batch_norm(model: Arrays, name: str, *, epsilon: float, keep: float, moved: Gradients | None) -> Layer:
    """Each channel standardised over batch and places, then γ y + β; by the moving figures where `moved` is None.

    moved   takes the new moving figures: moving ← keep · moving + (1 − keep) · batch, the variance biased (÷ n)
    source  Ioffe & Szegedy 2015, algorithm 1
    """
    mean_name, variance_name = f"{name}/moving_mean", f"{name}/moving_variance"

    def forward(x: Array) -> tuple[Array, Back]:
        axes = tuple(range(x.ndim - 1))
        if moved is None:
            fixed = (x - model[mean_name]) / np.sqrt(model[variance_name] + epsilon)
            return _scaled(model, name, fixed, lambda d, _: d / np.sqrt(model[variance_name] + epsilon))
        mean, variance = x.mean(axis=axes), x.var(axis=axes)
        moved[mean_name] = keep * model[mean_name] + (1 - keep) * mean
        moved[variance_name] = keep * model[variance_name] + (1 - keep) * variance
        return _scaled(model, name, *_standardised(x, mean, variance, epsilon, axes))

    return forward


def lstm(model: Arrays, name: str) -> Layer:
    """X (n, t, in) -> h (n, t, width), from zeros: z = x K + h U + b cut into i, f, g, o.

    c ← σ(f) c + σ(i) tanh(g),  h = σ(o) tanh(c); backwards through all of time.

    source  Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000 for the forget gate
    """
    kernel, recurrent, bias = (model[f"{name}/{part}"] for part in ("kernel", "recurrent_kernel", "bias"))
    width = len(recurrent)

    def forward(x: Array) -> tuple[Array, Back]:
        h, c = np.zeros((len(x), width), x.dtype), np.zeros((len(x), width), x.dtype)
        past: list[tuple[Array, ...]] = []
        hidden = []
        for t in range(x.shape[1]):
            z = x[:, t] @ kernel + h @ recurrent + bias
            i, f, o = (sigmoid(z[:, k * width : (k + 1) * width]) for k in (0, 1, 3))
            g = np.tanh(z[:, 2 * width : 3 * width])
            before, h_before = c, h
            c = f * c + i * g
            h = o * np.tanh(c)
            past.append((i, f, g, o, before, h_before, c))
            hidden.append(h)

        def back(d: Array, gradients: Gradients) -> Array:
            dx = np.zeros_like(x)
            parts = {part: np.zeros_like(model[f"{name}/{part}"]) for part in ("kernel", "recurrent_kernel", "bias")}
            dh, dc = np.zeros_like(h), np.zeros_like(c)
            for t in reversed(range(x.shape[1])):
                i, f, g, o, before, h_before, now = past[t]
                dh = dh + d[:, t]
                squashed = np.tanh(now)
                dc = dc + dh * o * (1 - squashed**2)
                dz = np.concatenate(
                    [dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g**2), dh * squashed * o * (1 - o)],
                    axis=1,
                )
                parts["kernel"] += x[:, t].T @ dz
                parts["recurrent_kernel"] += h_before.T @ dz
                parts["bias"] += dz.sum(axis=0)
                dx[:, t], dh, dc = dz @ kernel.T, dz @ recurrent.T, dc * f
            gradients.update({f"{name}/{part}": value for part, value in parts.items()})
            return dx

        return np.stack(hidden, axis=1), back

    return forward


def sigmoid(x: Array) -> Array:
    """1 / (1 + e⁻ˣ), as ½ (1 + tanh ½x), which does not overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def causal_attention(model: Arrays, name: str) -> Layer:
    """Heads of softmax(q kᵀ / √width, no position seeing a later one) v, put together by a last projection.

    X (n, t, d); kernels of query, key and value (d, heads, width), of the output (heads, width, d).
    source  Vaswani et al. 2017, section 3.2
    """
    parts = ("query", "key", "value")

    def forward(x: Array) -> tuple[Array, Back]:
        q, k, v = (np.einsum("ntd,dhw->nhtw", x, model[f"{name}/{part}/kernel"], optimize=True) for part in parts)
        out_kernel = model[f"{name}/attention_output/kernel"]
        scale = 1 / np.sqrt(q.shape[-1])
        scores = q @ k.swapaxes(-1, -2) * scale
        later = np.triu(np.ones(scores.shape[-2:], bool), 1)
        scores = np.where(later, -np.inf, scores)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        heads = weights @ v

        def back(d: Array, gradients: Gradients) -> Array:
            gradients[f"{name}/attention_output/kernel"] = np.einsum("nhtw,ntd->hwd", heads, d, optimize=True)
            dheads = np.einsum("ntd,hwd->nhtw", d, out_kernel, optimize=True)
            dweights = dheads @ v.swapaxes(-1, -2)
            dscores = weights * (dweights - (dweights * weights).sum(axis=-1, keepdims=True)) * scale
            found = (dscores @ k, dscores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ dheads)
            dx = np.zeros_like(x)
            for part, one in zip(parts, found, strict=True):
                gradients[f"{name}/{part}/kernel"] = np.einsum("ntd,nhtw->dhw", x, one, optimize=True)
                dx += np.einsum("nhtw,dhw->ntd", one, model[f"{name}/{part}/kernel"], optimize=True)
            return dx

        return np.einsum("nhtw,hwd->ntd", heads, out_kernel, optimize=True), back

    return forward


# --- losses: (targets, outputs) -> the loss and ∂loss/∂outputs


def cross_entropy(labels: Array, logits: Array) -> tuple[Array, Array]:
    """Mean −log softmax at the label, in nats, over all places; ∂ = (softmax − one-hot) / places."""
    flat, wanted = logits.reshape(-1, logits.shape[-1]), labels.ravel()
    shifted = flat - flat.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(wanted))
    gradient = np.exp(log_softmax)
    gradient[rows, wanted] -= 1
    return -log_softmax[rows, wanted].mean(), (gradient / len(wanted)).reshape(logits.shape)


def binary_cross_entropy(targets: Array, logits: Array) -> tuple[Array, Array]:
    """Mean of log(1 + eᶻ) − y z, the negative log-likelihood in nats; ∂ = (σ(z) − y) / n."""
    loss = np.logaddexp(0, logits) - targets * logits
    return loss.mean(), (sigmoid(logits) - targets) / logits.size


def half_squared_error(targets: Array, outputs: Array) -> tuple[Array, Array]:
    """1/(2n) Σ (y − ŷ)²; ∂ = (ŷ − y) / n."""
    error = outputs - targets
    return np.sum(error**2) / (2 * len(error)), error / len(error)
