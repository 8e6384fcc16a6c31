"""Samples to estimates, at the size of a large run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from synthetic_run import COMPARISONS, ROUNDS, Writer

from bench import stats
from bench.estimate import frames

if TYPE_CHECKING:
    from figures import Each

STEPS = 1_000_000
BLOCKS = 20
COMPARISON = "mnist_cnn.train.eager.64"


def test_a_million_steps_to_frames(each: Each, tmp_path: Path, quick: bool) -> None:
    """Raw rows of 20 blocks to one row a round and a trial, medians and percentiles included.

    Good: up to 10 s. It is most of the wait for `bench report`, and nobody looks twice at what takes longer.
    """
    arms = len(COMPARISONS[COMPARISON][2])
    slice_steps = 4 if quick else STEPS // (BLOCKS * ROUNDS * arms)
    run = Writer(tmp_path / "run").measured(COMPARISON, BLOCKS, slice_steps=slice_steps).read()
    read = each(lambda: frames.read(run), what="10⁶ steps to frames", good_s=10.0, rounds=3)
    assert len(read.trials) == BLOCKS * arms
    assert read.trials["steps"].sum() == BLOCKS * ROUNDS * arms * slice_steps


@pytest.mark.parametrize("q", [0.9, 0.99])
def test_a_percentile_of_a_million_steps(each: Each, q: float) -> None:
    """One trial of 10⁶ steps, its p90 and its p99. Good: up to 100 ms, or a report of a hundred trials drags."""
    times = np.random.default_rng(0).lognormal(size=STEPS)
    found = each(lambda: stats.percentile(times, q), what=f"p{100 * q:.0f} of 10⁶ steps", good_s=0.1)
    assert np.mean(times <= found) == pytest.approx(q, abs=1e-5)


def test_a_contrast_of_forty_blocks(each: Each) -> None:
    """Ratio, interval, both tests and equivalence of one contrast at the most blocks that a run takes.

    Good: up to 10 ms; the loop asks for it after every block, between measurements.
    """
    d = np.random.default_rng(0).normal(0.05, 0.02, 40)
    found = each(lambda: stats.contrast(d), what="a contrast of 40 blocks", good_s=0.01)
    assert found.ratio == pytest.approx(np.exp(d.mean()))
    assert found.p < 0.05
