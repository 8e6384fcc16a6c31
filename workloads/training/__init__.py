"""One training step, the same for every workload: loss, gradients, update; in each framework and in NumPy.

A module has `supervised(…)`: a model and its loss as a Program.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How weights follow gradients.

    sgd               v ← μ v + g,  θ ← θ − α v, by the framework's own optimizer
    gradient_descent  θ ← θ − α g, written out
    adam              m ← m + (1 − β₁)(g − m),  v ← v + (1 − β₂)(g² − v),
                      θ ← θ − α √(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√v + ε̂), by the framework's own optimizer

    source  Kingma & Ba 2015, the efficient order of section 2: ε̂ is what Keras calls epsilon. PyTorch's eps is another
            quantity: the same rule has eps = ε̂ / √(1 − β₂ᵗ)
    """

    name: str
    learning_rate: float
    momentum: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-7
