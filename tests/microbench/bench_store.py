"""The run folder's append: what it costs that nothing is lost."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from synthetic_run import COMPARISONS, Writer, block, outcome, steps

if TYPE_CHECKING:
    from figures import Each

COMPARISON = "mnist_cnn.train.eager.64"
SLICE_STEPS = 40


def test_a_block_on_disk(each: Each, tmp_path: Path) -> None:
    """A block of two arms, 12 rounds of 40 steps: some 1,000 rows as Parquet, then its line, both fsynced.

    Good: up to 100 ms, a hundredth of a block of 10 s; the arms are gone by then, so it is in no measurement.
    """
    writer, times = Writer(tmp_path / "run"), COMPARISONS[COMPARISON][2]
    rows = steps(times, 0, slice_steps=SLICE_STEPS)
    numbers = itertools.count()

    def append() -> None:
        writer.add(block(COMPARISON, next(numbers), {arm: outcome(arm) for arm in times}), rows)

    each(append, what=f"a block of {len(rows):,} rows on disk", good_s=0.1)
    run = writer.read()
    assert len(run.blocks) == next(numbers)
    assert len(run.steps(run.blocks[-1])) == len(rows)
