"""Whose time a reading was taken in: an arm's slice, soak, warm-up, compilation or start, or a gap that is nobody's.

Only one arm of a block works at a time, so that a moment has one owner at most. Pure functions of a block's record and
its raw samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import numpy.typing as npt

GAP = "gap"
KINDS = ("start", "compile", "warm_up", "slice", "soak", GAP)


class Span(NamedTuple):
    """A stretch of time that was one arm's; CLOCK_MONOTONIC, ns.

    what  start: its process or container comes up, imports and reads its data; compile: it builds its step and runs it
          for the first time; warm_up, slice and soak: as asked
    """

    start_ns: int
    end_ns: int
    arm: str
    what: str


def spans(record: Mapping[str, Any], steps: pd.DataFrame) -> list[Span]:
    """The spans of a block in order of time.

    record  a line of blocks.jsonl
    steps   its raw samples, with columns arm, start_ns and end_ns
    """
    slices = steps[["arm", "start_ns", "end_ns"]].drop_duplicates().itertuples(index=False)
    found = [Span(int(start), int(end), str(arm), "slice") for arm, start, end in slices]
    for arm, outcome in record["arms"].items():
        found += _of_arm(arm, outcome)
    return sorted(found)


def _of_arm(arm: str, outcome: Mapping[str, Any]) -> Iterator[Span]:
    for what, (start_ns, end_ns) in outcome["spans"].items():
        yield Span(start_ns, end_ns, arm, what)
    soak = outcome.get("soak")
    if soak:
        yield Span(soak["start_ns"], soak["end_ns"], arm, "soak")


def owners(t_ns: npt.NDArray[np.int64], found: Sequence[Span]) -> npt.NDArray[np.int64]:
    """For each moment the place of its span in `found`, or -1: a gap.

    found  as `spans` gives them: in order, none within another
    """
    if not found:
        return np.full(len(t_ns), -1)
    starts, ends = (np.array([getattr(span, name) for span in found]) for name in ("start_ns", "end_ns"))
    places = np.searchsorted(starts, t_ns, side="right") - 1
    inside = (places >= 0) & (t_ns <= ends[np.maximum(places, 0)])
    return np.where(inside, places, -1)


def attributed(readings: pd.DataFrame, found: Sequence[Span]) -> pd.DataFrame:
    """The readings with two columns more: `owner`, an arm or None, and `span`, one of KINDS."""
    places = owners(readings["t_ns"].to_numpy(), found)
    whose = np.array([*(span.arm for span in found), None], dtype=object)
    what = np.array([*(span.what for span in found), GAP], dtype=object)
    columns = {name: pd.Series(given[places], index=readings.index, dtype=object) for name, given in
               (("owner", whose), ("span", what))}  # fmt: skip
    return readings.assign(**columns)
