"""How far arrays lie apart, normwise: by the largest of their values, since elementwise tests fail at those near zero.

An array may be nearly zero because what it is a sum of cancels: a bias that was moved one way and back, the gradient of
one whose examples pull both ways. What is left of it is rounding, of the size of the terms: they are its scale.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workloads.runtime import Array, Arrays

CANCELLED = 0.01  # of the largest of its layer: a gradient, as a sum that comes to less, has terms that cancel


def apart(found: Array, truth: Array, scale: float = 0.0) -> float:
    """max|found − truth| ÷ max|truth|, or ÷ `scale` where that is larger; the plain gap where both are zero.

    Infinite where shapes differ or a value is not finite.
    """
    if found.shape != truth.shape or not np.isfinite(found).all() or not np.isfinite(truth).all():
        return float("inf")
    scale = max(largest(truth), scale)
    gap = largest(found - truth)
    return gap / scale if scale else gap


def farthest(found: Arrays, truth: Arrays, scales: Mapping[str, float] | None = None) -> float:
    """The largest distance of them all."""
    return max((apart(found[name], truth[name], (scales or {}).get(name, 0.0)) for name in truth), default=0.0)


def of_layers(arrays: Arrays) -> dict[str, float]:
    """The least scale of every array, from the largest of its layer: those of one name before the last slash."""
    layers: dict[str, float] = {}
    for name, array in arrays.items():
        layers[_layer(name)] = max(layers.get(_layer(name), 0.0), largest(array))
    return {name: CANCELLED * layers[_layer(name)] for name in arrays}


def largest(array: Array) -> float:
    """max|array|; 0 of an empty one."""
    return float(np.max(np.abs(array), initial=0.0))


def _layer(name: str) -> str:
    return name.rpartition("/")[0] or name
