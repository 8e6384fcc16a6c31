"""What a comparison of two runs says, in sentences: reasons of verdicts, and what it cannot see (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench import stats
from bench.history.change import Change, blocks_to_show

if TYPE_CHECKING:
    from bench.history.pairing import Lone

OF = {"cpu": "CPU time a step", "wall": "wall time a step"}
_SESSIONS = (
    "two runs are two sessions: what a session adds is allowed for as far as blocks differ within a run; more than "
    "that, such as another clock speed, is a change of every arm"
)
_WAITING = (
    "on a CPU a cell's own change is of its CPU time: waiting that all arms share is not judged, and waiting of one "
    "arm shows against its baseline alone"
)
_CAUSE = "what changed on record is listed, not separated: each of it may be the cause"
UNSEEN = (_SESSIONS, _WAITING, _CAUSE)


def difference(verdict: str, change: Change, *, by: str, other: str | None) -> str:
    """How much slower or faster, with its interval and by which evidence."""
    evidence = f"against {other} in the same blocks" if other else f"in {OF[by]}"
    return f"{verdict} by {_size(change.ratio or 1.0)} ({_interval(change)}) {evidence}"


def company(by: str, sure: bool, baseline: tuple[str, str | None] | None, *, alike: bool, same: bool) -> str:
    """What the other arms of the comparison did meanwhile; starts with a semicolon, or is empty.

    alike  whether every arm changed by its own time, the same way
    same   whether nothing of this arm changed on record, nor its ratio to another
    """
    if alike:
        return "; every arm of the comparison changed alike: the machine, or what they share"
    if by == "baseline":
        told = "the other is the same on record" if sure else "of the two its own time moved more"
        return f"; {told}"
    told = ""
    if baseline is not None:
        name, verdict = baseline
        told = f"; its baseline {name} is {verdict} too" if verdict else f"; its baseline {name} shows no change"
    return told + ("; nothing of its own changed on record: the machine, or what arms share" if same else "")


def beside(against: Change | None, baseline: tuple[str, str | None] | None) -> str:
    """The ratio to the baseline, where it is not what is claimed; starts with a semicolon, or is empty."""
    if baseline is None or against is None or against.ratio is None or against.ci is None:
        return ""
    return f"; against {baseline[0]} in the same blocks {_signed(against.ratio)} ({_signed_interval(against)})"


def equivalent(change: Change, by: str) -> str:
    """Within θ of before."""
    return f"within ± {100 * stats.THETA:g} % of before in {OF[by]} ({_signed_interval(change)})"


def undecided(own: Change, wall: Change, by: str) -> str:
    """Neither a change nor its absence; wall time is told where it went its own way."""
    if own.fault or own.ci is None or own.ratio is None:
        return own.fault or "no interval"
    text = f"{_signed(own.ratio)} in {OF[by]} ({_signed_interval(own)}): neither a change nor its absence is shown"
    if wall.ci and by != "wall" and (wall.ci[0] > own.ci[1] or wall.ci[1] < own.ci[0]):
        text += f"; wall time went apart from it, {_signed(wall.ratio or 1.0)} ({_signed_interval(wall)})"
    return text


def unseen(cells: Sequence[Mapping[str, Any]], lone: Sequence[Lone], *, tests: int, limit: float | None) -> list[str]:
    """What this comparison of two runs cannot see.

    tests  of the family that p values are corrected over
    limit  of the gate, a share; None without one
    """
    found = []
    needed = blocks_to_show(tests)
    short = sum(min(cell["evidence"]["own"]["blocks"]) < needed for cell in cells)
    if short:
        found.append(
            f"{short} of {len(cells)} cells have fewer than {needed} blocks in one of the runs: over {tests} tests no "
            "change of theirs can be shown"
        )
    known = [cell["resolution"] for cell in cells if cell["resolution"] is not None]
    if known:
        ends = dict.fromkeys(f"{100 * width:.1f} %" for width in (min(known), max(known)))
        found.append(f"changes smaller than the narrowest interval of a cell, here ± {' to ± '.join(ends)}")
    if limit is not None and (blind := sum(width > limit for width in known)):
        found.append(f"{blind} of {len(cells)} cells spread so much that a slowdown of {100 * limit:g} % goes unseen")
    if lone:
        found.append(f"{len(lone)} {'cell' if len(lone) == 1 else 'cells'} that one of the runs does not hold")
    return [*found, *UNSEEN]


def _size(ratio: float) -> str:
    return f"{abs(100 * (ratio - 1)):.1f} %"


def _interval(change: Change) -> str:
    """Both ends as shares of the time before, the smaller first."""
    low, high = change.ci or (math.nan, math.nan)
    ends = [100 * (low - 1), 100 * (high - 1)] if (change.ratio or 1.0) > 1 else [100 * (1 - high), 100 * (1 - low)]
    return f"{ends[0]:.1f} to {ends[1]:.1f}"


def _signed(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %".replace("-", "−")


def _signed_interval(change: Change) -> str:
    low, high = change.ci or (math.nan, math.nan)
    return f"{100 * (low - 1):+.1f} to {100 * (high - 1):+.1f}".replace("-", "−")
