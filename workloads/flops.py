"""Floating-point operations of one step, by the workload's own arithmetic: a bound that no honest timing exceeds."""

from __future__ import annotations


def of_step(*, macs: int, first: int, batch_size: int, phase: str) -> int:
    """A multiply-add counted as two; biases, activations, loss and update are left out.

    macs   multiply-adds of one example's forward pass
    first  those of layers whose input needs no gradient: ∂loss/∂kernel costs as many again, ∂loss/∂input nothing
    """
    backward = 2 * macs - first if phase == "train" else 0
    return 2 * batch_size * (macs + backward)
