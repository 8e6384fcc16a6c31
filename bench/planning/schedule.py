"""What is measured next, in which order, and when it is enough: pure functions of a seed and of the records so far.

Block k of every comparison comes before block k + 1 of any, in an order drawn anew for each k (randomised multiple
interleaved trials, Abedi & Brecht 2017, doi:10.1145/3030207.3030229). Every draw is a function of the seed and of what
is drawn, never of what was drawn before: a resumed run continues the very same plan.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol, TypeVar

from bench import stats
from bench.records import FAILURES_IN_A_ROW, Record, latest

Item = TypeVar("Item")

MAX_ATTEMPTS = 3  # of one block that keeps being spoiled
PADDING_BYTES = 4096


class Budget(Protocol):
    """When to stop a comparison; run.json's `budget` as attributes."""

    @property
    def half_width(self) -> float:
        """Wanted 95 % half-width of log ratio."""

    @property
    def blocks(self) -> int | None:
        """Exactly so many valid blocks, whatever the width."""

    @property
    def max_blocks(self) -> int:
        """At most so many valid blocks."""

    @property
    def per_comparison_s(self) -> float | None:
        """Seconds spent on one comparison, at which no further block begins."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One block to measure: the first attempt is 0."""

    comparison: str
    block: int
    attempt: int = 0


def order(comparisons: Sequence[str], block: int, seed: int) -> tuple[str, ...]:
    """The order of the comparisons in block round `block`."""
    return _shuffled(sorted(comparisons), seed, "comparisons", block)


def start_order(arms: Sequence[str], planned: Planned, seed: int) -> tuple[str, ...]:
    """The order in which the arms of a block are started and set up."""
    return _shuffled(sorted(arms), seed, "start", planned.comparison, planned.block, planned.attempt)


def turns(arms: Sequence[str], planned: Planned, rounds: int, seed: int) -> tuple[tuple[str, ...], ...]:
    """The order of the arms in each round of a block, (rounds, arms)."""
    key = (seed, "turns", planned.comparison, planned.block, planned.attempt)
    return tuple(_shuffled(sorted(arms), *key, number) for number in range(rounds))


def padding(arm: str, planned: Planned, seed: int) -> int:
    """Bytes by which to pad a worker's environment: layouts bias timings (Mytkowicz et al. 2009)."""
    key = (seed, "padding", planned.comparison, planned.block, planned.attempt, arm)
    return math.floor(_generator(*key).random() * PADDING_BYTES)


def too_few_blocks(budget: Budget, family: int) -> str | None:
    """What so few blocks cannot claim of `family` contrasts, and what would do; None where they can claim anything."""
    blocks = budget.blocks or budget.max_blocks
    least = stats.blocks_to_claim(family)
    if blocks >= least:
        return None
    name = "blocks" if budget.blocks else "max_blocks"
    plain = "only a plain difference, over 10 % and in every block, can be claimed"
    cannot = plain if blocks >= stats.PLAIN_BLOCKS else "no difference can be claimed"
    affordable = math.floor(stats.ALPHA * 2 ** (blocks - 1))  # contrasts of which so many blocks can claim the first
    fewer = f", or leave out all but {affordable} of the contrasts" if affordable else ""
    count = "1 contrast" if family == 1 else f"{family} contrasts"
    return f"with {name}: {blocks} and {count} {cannot}; any difference takes {name}: {least}{fewer}"


def enough(log_ratios: Sequence[Sequence[float]], budget: Budget, least: int, *, spent_s: float = 0.0) -> str | None:
    """Why a comparison needs no further block, or None; never because of a p value.

    log_ratios  one series for each contrast of the comparison, one d for each valid block
    least       `k_min` of the run: a reached half-width counts from there on
    spent_s     seconds spent on this comparison, set-up included
    """
    blocks = min((len(series) for series in log_ratios), default=0)
    if budget.blocks is not None:
        if blocks >= budget.blocks:
            return f"all {budget.blocks} blocks measured"
    elif blocks >= max(least, 2) and (width := _widest(log_ratios)) <= budget.half_width:
        return f"± {100 * width:.2g} % reached in {blocks} blocks"
    elif blocks >= budget.max_blocks:
        return f"the most blocks allowed, {budget.max_blocks}"
    if budget.per_comparison_s is not None and spent_s >= budget.per_comparison_s:
        return f"the comparison's {budget.per_comparison_s:g} s are spent after {blocks} blocks"
    return None


def given_up(
    records: Sequence[Record],
    budget: Budget,
    *,
    arms: Sequence[str],
    essential: Sequence[str],
    out: Mapping[str, str],
) -> str | None:
    """Why a comparison cannot be measured, or not any further; None where it can.

    records    of this comparison alone, every attempt, oldest first
    essential  those without which there is no contrast: the baseline, and the reference
    out        who is left out, and why: by `left_out`, or before the first block
    """
    for name in essential:
        if name in out:
            return out[name]
    if sum(arm not in out for arm in arms) < 2:
        return "; ".join(dict.fromkeys(out.values()))
    limit = 2 * (budget.blocks or budget.max_blocks) + FAILURES_IN_A_ROW * (1 + len(out))
    if len(records) >= limit:
        return f"{len(records)} attempts did not give enough valid blocks"
    return None


def remaining_s(log_ratios: Sequence[Sequence[float]], budget: Budget, least: int, *, spent_s: float) -> float:
    """Seconds that a comparison should still take to its half-width, by its spread and its seconds a block so far.

    Infinite where that would pass its own limits: whatever it is given, it stays undecided. By the width alone, never
    by a ratio or a p value: what is measured more must not depend on what was found.
    """
    blocks = min((len(series) for series in log_ratios), default=0)
    if blocks < 2:
        return math.inf
    if budget.blocks is not None:
        needed: int | None = budget.blocks
    else:
        spreads = [statistics.stdev(series) for series in log_ratios]
        wanted = [stats.blocks_needed(spread, budget.half_width) for spread in spreads]
        needed = None if None in wanted else max(least, *(count for count in wanted if count is not None))
    if needed is None or needed > (budget.blocks or budget.max_blocks):
        return math.inf
    each_s = spent_s / blocks
    more_s = max(0, needed - blocks) * each_s
    fits = budget.per_comparison_s is None or spent_s + more_s <= budget.per_comparison_s
    return more_s if fits else math.inf


def pending(
    comparisons: Sequence[str],
    records: Iterable[Record],
    *,
    finished: AbstractSet[str],
    seed: int,
    least: int | None = None,
    remaining_s: Mapping[str, float] | None = None,
) -> tuple[Planned, ...]:
    """The blocks of the next round, in their order; empty when all comparisons are finished.

    Block k of every comparison comes before block k + 1 of any, up to `least` blocks. From there on each round goes to
    the half of the unfinished comparisons that are nearest to their half-width: when the time runs out, more of them
    are decided than if all had shared it to the end.
    A spoiled block is repeated, at most 3 attempts in all; one in which an arm failed is recorded and the next follows.

    records      every block stored so far, in any order
    finished     comparisons that are `enough` or `given_up`
    least        `k_min` of the run; None: whole rounds to the end
    remaining_s  by comparison, as `remaining_s` gives it
    """
    by_comparison: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_comparison[record["comparison"]].append(record)
    following = {name: _following(name, by_comparison[name]) for name in comparisons if name not in finished}
    if not following:
        return ()
    block = min(planned.block for planned in following.values())
    if least is not None and remaining_s is not None and block >= least:
        due = _nearest(following, remaining_s)
    else:
        due = [name for name, planned in following.items() if planned.block == block]
    return tuple(following[name] for name in order(comparisons, block, seed) if name in due)


def _following(comparison: str, records: Sequence[Record]) -> Planned:
    """The first block that has neither a good record nor used up its attempts."""
    newest = {record["block"]: record for record in latest(records)}
    block = next(number for number in range(len(newest) + 1) if number not in newest or _repeatable(newest[number]))
    attempt = newest[block]["attempt"] + 1 if block in newest else 0
    return Planned(comparison=comparison, block=block, attempt=attempt)


def _nearest(following: Mapping[str, Planned], remaining_s: Mapping[str, float]) -> list[str]:
    """The half with the least time left to go, more than half where they are equal; of the hopeless, the fewest blocks.

    A comparison that no time can decide waits until only such ones are left, and they then go on in rounds.
    """
    ranked = sorted(following, key=lambda name: (remaining_s[name], following[name].block, name))
    last = ranked[(len(ranked) - 1) // 2]
    limit = (remaining_s[last], following[last].block if math.isinf(remaining_s[last]) else math.inf)
    return [name for name in ranked if (remaining_s[name], following[name].block) <= limit]


def _repeatable(record: Record) -> bool:
    return bool(record["spoiled"]) and record["attempt"] + 1 < MAX_ATTEMPTS


def _widest(log_ratios: Sequence[Sequence[float]]) -> float:
    if any(not math.isfinite(value) for series in log_ratios for value in series):
        return math.inf
    return max(stats.half_width(series) for series in log_ratios)


def _shuffled(items: Sequence[Item], *key: object) -> tuple[Item, ...]:
    generator = _generator(*key)
    return tuple(sorted(items, key=lambda _: generator.random()))  # random() alone is promised not to change


def _generator(*key: object) -> random.Random:
    return random.Random("/".join(map(str, key)))  # noqa: S311 - replayable on purpose
