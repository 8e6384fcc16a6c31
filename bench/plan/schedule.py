"""What is measured next, in which order, and when it is enough: pure functions of a seed and of the records so far.

Block k of every comparison comes before block k + 1 of any, in an order drawn anew for each k (randomised multiple
interleaved trials, Abedi & Brecht 2017, doi:10.1145/3030207.3030229). Every draw is a function of the seed and of what
is drawn, never of what was drawn before: a resumed run continues the very same plan.
"""

from __future__ import annotations

import math
import operator
import random
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from bench import stats
from bench.measure import gates

Item = TypeVar("Item")
Record = Mapping[str, Any]

OTHER_SYNC_EVERY = 4  # rounds: the sync that does not decide is sampled too, less often
ENOUGH_UNDISTURBED = 6  # attempts, from which on disturbed ones do not count
MAX_ATTEMPTS = 3  # of one block that keeps being spoiled
FAILURES_IN_A_ROW = 3  # of one arm, after which it is not started any more
PADDING_BYTES = 4096
SLOW_STEP_S = 0.25  # above it a block of so many rounds would take most of a minute
LEAST_ROUNDS, LEAST_SLOW_ROUNDS, MOST_ROUNDS = 16, 6, 40  # with 12, a slow drift of one arm is missed too often
# Of a slice, at most.
TIMER_SHARE = 1e-4
CONTROL_SHARE = 0.01


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


@dataclass(frozen=True, kw_only=True)
class SlicePlan:
    """How the arms of a block take turns.

    steps          of one slice, by arm: slices last alike, so a quicker arm does more
    settle_steps   before them, recorded and left out
    rounds         turns of every arm in a block
    timer_share    by arm, what reading the clock adds to a time that decides: the cost of one pair of readings ÷ what
                   it encloses, a whole slice where its total is timed, one step where every step is
    control_share  by arm, what asking and answering cost beside a slice ÷ the slice: machine time spent between
                   slices, no part of any time
    """

    steps: Mapping[str, int]
    settle_steps: int
    rounds: int
    timer_share: Mapping[str, float] = field(default_factory=dict)
    control_share: Mapping[str, float] = field(default_factory=dict)


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


def slice_plan(
    pilot: Mapping[str, Sequence[float]],
    *,
    timer_ns: Mapping[str, float] = MappingProxyType({}),
    control_ns: Mapping[str, float] = MappingProxyType({}),
    sync: str = "slice",
    slice_s: float = 0.010,
    target_s: float = 1.0,
    settle_steps: int = 2,
    syncs: int = 2,
) -> SlicePlan:
    """Slices long enough to time and short enough to alternate often.

    pilot       step times of each arm once it is warm, ns
    timer_ns    of each arm, one pair of readings of its clock: a slice lasts 10,000 of them or more
    control_ns  of each arm, what a question and its answer cost beside the steps: a slice lasts 100 of them or more, as
                long as the least rounds of it stay within `target_s`: on a busy machine an answer takes its time
    sync        of the times that decide: `slice` reads the clock once a slice, `step` once a step
    slice_s     the least duration of a slice; longer only where one step, the timer or the control takes longer
    target_s    measured seconds of each arm in a block, over all `syncs` kinds of slices of a round
    """
    typical_s = {arm: max(statistics.median(times), 1.0) * 1e-9 for arm, times in pilot.items()}
    timer_s = max(timer_ns.values(), default=0.0) * 1e-9
    control_s = max(control_ns.values(), default=0.0) * 1e-9
    longest_s = target_s / (LEAST_ROUNDS * syncs)
    duration_s = max(slice_s, timer_s / TIMER_SHARE, min(control_s / CONTROL_SHARE, longest_s), *typical_s.values())
    steps = {arm: max(1, math.ceil(duration_s / step_s - 1e-9)) for arm, step_s in typical_s.items()}
    rounds = round(target_s / (duration_s * syncs))
    least = LEAST_ROUNDS if duration_s < SLOW_STEP_S else LEAST_SLOW_ROUNDS
    slice_ns = {arm: steps[arm] * step_s * 1e9 for arm, step_s in typical_s.items()}
    timed_ns = slice_ns if sync == "slice" else {arm: step_s * 1e9 for arm, step_s in typical_s.items()}
    return SlicePlan(
        steps=steps,
        settle_steps=settle_steps,
        rounds=min(MOST_ROUNDS, max(least, rounds)),
        timer_share={arm: cost_ns / timed_ns[arm] for arm, cost_ns in timer_ns.items()},
        control_share={arm: cost_ns / slice_ns[arm] for arm, cost_ns in control_ns.items()},
    )


def k_min(family: int, alpha: float = stats.ALPHA) -> int:
    """Blocks without which Wilcoxon cannot survive Holm over `family` contrasts, and 10 at least."""
    return max(10, stats.blocks_to_claim(family, alpha))


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


def left_out(records: Iterable[Record]) -> dict[str, str]:
    """The arms that are not started any more, and why: unsupported, failed three times in a row, or did other work.

    What was stopped because another arm failed says nothing of an arm.

    records  of this comparison alone, every attempt, oldest first
    """
    outcomes: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        for arm, outcome in record["arms"].items():
            if outcome["status"] != "stopped":
                outcomes[arm].append(outcome)
    found = {}
    for arm, own in outcomes.items():
        last = own[-FAILURES_IN_A_ROW:]
        other_work = next(
            (closing["reason"] for one in own if (closing := one.get("closing")) and closing["reason"]), ""
        )
        if last[-1]["status"] == "unsupported":
            found[arm] = f"{arm} is unsupported: {last[-1]['reason']}"
        elif other_work:
            found[arm] = other_work
        elif len(last) == FAILURES_IN_A_ROW and all(outcome["status"] == "failed" for outcome in last):
            found[arm] = f"{arm} failed in {FAILURES_IN_A_ROW} blocks in a row: {last[-1]['reason']}"
    return found


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


def latest(records: Iterable[Record]) -> list[Record]:
    """The record that counts of every block, the one of its last attempt, by comparison and block."""
    newest: dict[tuple[str, int], Record] = {}
    for record in records:
        key = (record["comparison"], record["block"])
        if key not in newest or record["attempt"] >= newest[key]["attempt"]:
            newest[key] = record
    return [newest[key] for key in sorted(newest)]


def valid(record: Record) -> bool:
    """Whether a block counts towards the number that is wanted: whole, and nothing disturbed it."""
    return not record["spoiled"] and is_whole(record)


def is_whole(record: Record) -> bool:
    """Whether a block measured at least two arms: it counts for those that it measured."""
    return len(measured(record)) >= 2


def measured(record: Record) -> set[str]:
    """The arms that a block measured: those that failed in it, were left out, or were measured wrongly are none."""
    arms = {arm for arm, outcome in record["arms"].items() if outcome["status"] == "measured"}
    return arms - gates.faulty(record["spoiled"], arms).keys()


def whole(records: Iterable[Record]) -> list[Record]:
    """Every whole attempt, disturbed ones too, by comparison, block and attempt."""
    key = operator.itemgetter("comparison", "block", "attempt")
    return sorted((record for record in records if is_whole(record)), key=key)


def counting(records: Iterable[Record]) -> list[Record]:
    """Of these whole attempts, those from which figures are taken: the undisturbed ones, or all where they are too few.

    Disturbed attempts are better than no answer: `bench.estimate.verdicts` asks what they may have done.
    """
    every = list(records)
    undisturbed = [record for record in every if not gates.disturbances(record["spoiled"])]
    return undisturbed if len(undisturbed) >= ENOUGH_UNDISTURBED else every


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
