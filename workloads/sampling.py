"""What specs draw by NumPy from one seed, so that every framework is given the same bytes: weights and batches."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workloads.runtime import Array

Shapes = Mapping[str, tuple[int, ...]]


def glorot(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Uniform in ± √(6 / (fan in + fan out)), float32; the last two axes are in and out, those before the field.

    source  Glorot & Bengio 2010
    """
    field = int(np.prod(shape[:-2]))
    bound = np.sqrt(6 / (field * shape[-2] + field * shape[-1]))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def initial_weights(shapes: Shapes, seed: int) -> dict[str, Array]:
    """Float32, by the last word of a name: kernels Glorot, embeddings uniform in ± .05, scales one, the rest zero."""
    rng = np.random.default_rng([seed, 1])
    return {name: _initial(rng, name.rpartition("/")[2], shape) for name, shape in shapes.items()}


def _initial(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> Array:
    if kind.endswith("kernel"):
        return glorot(rng, shape)
    if kind == "embeddings":
        return rng.uniform(-0.05, 0.05, shape).astype(np.float32)
    return np.full(shape, kind in ("gamma", "moving_variance"), np.float32)


def epochs(rng: np.random.Generator, n: int, batch_size: int, count: int, first: int = 0) -> Array:
    """Indices (count, batch) from batch `first` on: epochs of shuffled examples, the short last batch of each dropped.

    Whatever part is asked for, it is of one and the same sequence.
    """
    whole = n // batch_size
    skipped, rest = divmod(first, whole)
    for _ in range(skipped):
        rng.permutation(n)
    drawn = [rng.permutation(n)[: whole * batch_size] for _ in range(-(-(rest + count) // whole))]
    return np.concatenate(drawn).reshape(-1, batch_size)[rest : rest + count]


def dyadic(values: Array, bits: int) -> Array:
    """Rounded to multiples of 2⁻ᵇⁱᵗˢ: sums of such numbers are exact, whatever the order in which a BLAS adds."""
    return np.asarray(np.round(values * 2.0**bits) / 2.0**bits)
