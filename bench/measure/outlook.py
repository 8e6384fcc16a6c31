"""Whether a run's time will do: said before its first block, and again once a first round has shown what they take.

source  the blocks without which Wilcoxon cannot survive Holm: `stats.blocks_to_claim`
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench import stats
from bench.records import Record, is_whole

if TYPE_CHECKING:
    from bench.matrix.comparison import Comparison
    from bench.measure.standing import Stand
    from bench.planning.schedule import Budget

RESERVE = 1.1  # of what is suggested: blocks of one comparison do not all take the same time


@dataclass(frozen=True, kw_only=True)
class Expected:
    """One comparison of a run: its contrasts, the blocks that it has, and what another one takes."""

    comparison: str
    contrasts: int
    blocks: int
    block_s: float


def expected(
    comparisons: Sequence[Comparison],
    standing: Mapping[str, Stand],
    plans: Mapping[str, Mapping[str, Any]],
    records: Sequence[Record],
) -> list[Expected]:
    """The comparisons that are not finished, as far as their blocks, or else their pilots, tell how long one is."""
    found = []
    for one in comparisons:
        stand, own = standing[one.id], (record for record in records if record["comparison"] == one.id)
        taken_s = [record["wall_s"] for record in own if is_whole(record)]
        block_s = statistics.fmean(taken_s) if taken_s else plans[one.id]["block_s"] if one.id in plans else None
        if not stand.finished and block_s is not None:
            contrasts = sum(arm.id not in stand.out for _, arm in one.contrasts)
            found.append(Expected(comparison=one.id, contrasts=contrasts, blocks=stand.blocks, block_s=block_s))
    return found


def shortfall(expected: Sequence[Expected], budget: Budget, *, total_s: float, left_s: float) -> str | None:
    """What the time left will not hold, how much would, and what to leave out; None where it will do.

    expected  the comparisons that are not finished
    total_s   the whole budget, of which `left_s` is left
    """
    if not expected:
        return None
    needed = _needed(expected, budget)
    wanted_s = _seconds(expected, needed)
    longest_s = max(needed * one.block_s for one in expected)
    within = budget.per_comparison_s is None or longest_s <= budget.per_comparison_s
    if wanted_s <= left_s and within:
        return None
    each = min(_affordable(expected, budget, left_s), needed)
    count = sum(one.contrasts for one in expected)
    contrasts = "1 contrast" if count == 1 else f"{count} contrasts"
    claim = stats.blocks_to_claim(count)
    wanted = f"any difference of {contrasts} takes {claim}" if needed == claim else f"the matrix asks for {needed}"
    told = f"the time will hold about {each} {'block' if each == 1 else 'blocks'} a comparison, where {wanted}"
    return f"{told}; {_remedy(expected, budget, total_s, left_s, wanted_s, longest_s)}"


def expectation(expected: Sequence[Expected], budget: Budget, *, least: int) -> str:
    """What the blocks should take, where the time will do; by the fewest that are wanted of each comparison."""
    blocks = budget.blocks or min(budget.max_blocks, least)
    wanted_s = _seconds(expected, blocks)
    left = max(0, blocks - min(one.blocks for one in expected))
    return f"blocks to come: {left} of each comparison, in about {max(1, round(wanted_s / 60))} min"


def _remedy(
    expected: Sequence[Expected], budget: Budget, total_s: float, left_s: float, wanted_s: float, longest_s: float
) -> str:
    limits = []
    if wanted_s > left_s:
        limits.append(f"total: {_minutes(total_s - left_s + wanted_s)}")
    if budget.per_comparison_s is not None and longest_s > budget.per_comparison_s:
        limits.append(f"per_comparison: {_minutes(longest_s)}")
    remedy = f"{' and '.join(limits)} in the matrix's budget would do"
    left_out = _left_out(expected, budget, left_s)
    return f"{remedy}, or leave out {', '.join(left_out)}" if left_out else remedy


def _left_out(expected: Sequence[Expected], budget: Budget, left_s: float) -> list[str]:
    """The longest comparisons, as few as leave a run that fits; empty where not even the shortest alone does."""
    kept = sorted(expected, key=lambda one: one.block_s)
    while len(kept) > 1:
        kept.pop()
        needed = _needed(kept, budget)
        limit_s = math.inf if budget.per_comparison_s is None else budget.per_comparison_s
        if _seconds(kept, needed) <= left_s and all(needed * one.block_s <= limit_s for one in kept):
            names = {one.comparison for one in kept}
            return [one.comparison for one in expected if one.comparison not in names]
    return []


def _needed(expected: Sequence[Expected], budget: Budget) -> int:
    """Blocks that can claim anything, but no more than are asked for."""
    claim = stats.blocks_to_claim(sum(one.contrasts for one in expected))
    return min(claim, budget.blocks or budget.max_blocks)


def _seconds(expected: Sequence[Expected], needed: int) -> float:
    return sum(max(0, needed - one.blocks) * one.block_s for one in expected)


def _affordable(expected: Sequence[Expected], budget: Budget, left_s: float) -> int:
    """Blocks of each comparison, round after round."""
    rounds = math.floor(left_s / sum(one.block_s for one in expected)) + min(one.blocks for one in expected)
    if budget.per_comparison_s is None:
        return max(0, rounds)
    return max(0, min(rounds, *(math.floor(budget.per_comparison_s / one.block_s) for one in expected)))


def _minutes(seconds: float) -> str:
    return f"{math.ceil(RESERVE * seconds / 60)}m"
