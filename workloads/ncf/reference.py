"""The recommender in NumPy float64, gradients written out."""

from __future__ import annotations

import numpy as np

from workloads.contract import Cell
from workloads.layers import Back, Gradients, Layer, binary_cross_entropy, dense, embedding, relu, sequence
from workloads.ncf import spec
from workloads.runtime import Array, Arrays, Program
from workloads.training.reference import supervised


def network(model: Arrays, moved: Gradients | None) -> Layer:
    """Pairs (n, 2) to scores (n, 1)."""
    perceptron = sequence(dense(model, "dense1"), relu, dense(model, "dense2"), relu)
    head = dense(model, "head")

    def forward(pairs: Array) -> tuple[Array, Back]:
        (p, back_p), (q, back_q), (p2, back_p2), (q2, back_q2) = (
            embedding(model, name)(pairs[:, column])
            for name, column in (("gmf_user", 0), ("gmf_item", 1), ("mlp_user", 0), ("mlp_item", 1))
        )
        hidden, back_hidden = perceptron(np.concatenate([p2, q2], axis=1))
        score, back_head = head(np.concatenate([p * q, hidden], axis=1))
        factors, wide = p.shape[1], p2.shape[1]

        def back(d: Array, gradients: Gradients) -> Array:
            d = back_head(d, gradients)
            d_product, d_hidden = d[:, :factors], d[:, factors:]
            back_p(d_product * q, gradients)
            back_q(d_product * p, gradients)
            d_both = back_hidden(d_hidden, gradients)
            back_p2(d_both[:, :wide], gradients)
            back_q2(d_both[:, wide:], gradients)
            return np.zeros(pairs.shape)

        return score, back

    return forward


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """The same Program as the twins', eager, at the cell's precision (the certificate uses fp64)."""
    return supervised(
        cell=cell,
        weights=weights,
        rule=spec.optimizer(cell.workload.mapping),
        network=network,
        loss_of=binary_cross_entropy,
        inputs=batches["pairs"],
        targets=batches["labels"],
    )
