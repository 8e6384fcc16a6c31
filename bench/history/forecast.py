"""How long a run should take, from what an earlier run of the same comparisons took: pure functions of stored runs.

What the seed fixes is listed exactly; what depends on the numbers (how many blocks a half-width takes) is predicted,
and what no earlier run tells is None with its reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench import records, stats
from bench.estimate import frames
from bench.planning import schedule

if TYPE_CHECKING:
    from bench.matrix.comparison import Comparison
    from bench.matrix.matrix import Budget, Matrix
    from bench.store import StoredRun

SCHEMA = "bench.plan/1"
ENOUGH_BLOCKS = 5  # to know a spread to within a factor of two
SPREAD_CONFIDENCE = 0.8  # of the interval of a spread, and so of the range of blocks
NOT_INCLUDED = "not included: making images and environments that are missing, fetching data, starting the run"

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What an earlier run tells of one comparison.

    run         its id
    prologue_s  certificate, evaluation and pilot; None where the run did not record it
    block_s     of one valid block, repeats of spoiled ones included
    spreads     SD of d over the valid blocks, one a contrast; empty under 2 blocks
    """

    run: str
    blocks: int
    prologue_s: float | None
    block_s: float
    spreads: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What one comparison should take; None where nothing tells it, with the reason.

    blocks        how many until it stops, at the spread seen; the total budget not yet counted
    blocks_range  the same at the ends of the spread's 80 % interval
    """

    comparison: str
    evidence: Evidence | None
    blocks: int | None = None
    blocks_range: tuple[int, int] | None = None
    reason: str | None = None

    @property
    def measuring_s(self) -> float | None:
        """Its blocks alone."""
        return None if self.evidence is None or self.blocks is None else self.blocks * self.evidence.block_s

    @property
    def seconds(self) -> float | None:
        """Prologue and blocks together."""
        return self.lasting_s(self.blocks)

    def lasting_s(self, blocks: int | None) -> float | None:
        """Seconds to the end of so many blocks, prologue included."""
        if self.evidence is None or self.evidence.prologue_s is None or blocks is None:
            return None
        return self.evidence.prologue_s + blocks * self.evidence.block_s


def evidence(comparison: Comparison, run: StoredRun, *, launcher: str, kind: str = "lockstep") -> Evidence | None:
    """What `run` tells of `comparison`; None where it holds no valid block of the same cells, measured the same way.

    The cells are the same where they differ in nothing but a framework's version and image.

    launcher  docker, local, or auto for either
    kind      the schedule: lockstep or serial
    """
    if launcher not in ("auto", run.run["launcher"]) or kind != run.run["schedule"]:
        return None
    wanted = _signature([arm.cell.to_json() for arm in comparison.arms])
    entries: Mapping[str, Any] = run.run["comparisons"]
    name = next((id_ for id_, entry in entries.items() if _signature(entry["arms"].values()) == wanted), None)
    if name is None:
        return None
    own = replace(run, blocks=[record for record in run.blocks if record["comparison"] == name])
    valid = [record for record in records.latest(own.blocks) if records.valid(record)]
    if not valid:
        return None
    return Evidence(
        run=str(run.run["id"]),
        blocks=len(valid),
        prologue_s=run.run["plans"][name]["prologue_s"] if name in run.run["plans"] else None,
        block_s=sum(record["wall_s"] for record in own.blocks) / len(valid),
        spreads=_spreads(own, name, entries[name]),
    )


def best_evidence(
    comparison: Comparison, runs: Sequence[StoredRun], *, launcher: str, kind: str = "lockstep"
) -> Evidence | None:
    """That of the newest run with blocks enough to know a spread, else of the one with the most.

    runs  the newest first
    """
    found = [one for run in runs if (one := evidence(comparison, run, launcher=launcher, kind=kind))]
    enough = (one for one in found if one.blocks >= ENOUGH_BLOCKS)
    return next(enough, max(found, key=lambda one: one.blocks, default=None))


def forecast(comparison: Comparison, known: Evidence | None, budget: Budget, least: int) -> Forecast:
    """How many blocks, by the rule of `schedule.enough` at the spread that was seen.

    least  `stats.k_min` of the matrix to be run
    """
    if known is None:
        return Forecast(comparison=comparison.id, evidence=None, reason="no earlier run holds it")
    if budget.blocks is None and not known.spreads:
        reason = f"{known.run} holds one block of it, which shows no spread"
        return Forecast(comparison=comparison.id, evidence=known, reason=reason)
    low, high = (_blocks(known, budget, least, factor) for factor in _spread_factors(known.blocks))
    return Forecast(
        comparison=comparison.id,
        evidence=known,
        blocks=_blocks(known, budget, least, 1.0),
        blocks_range=(low, high),
        reason=None if known.prologue_s is not None else f"{known.run} did not record how long certifying it took",
    )


def planned_blocks(comparisons: Sequence[str], budget: Budget, least: int, seed: int) -> list[tuple[str, int]]:
    """The blocks that the seed alone fixes, in their order: the rounds that every comparison gets."""
    rounds = budget.blocks or min(least, budget.max_blocks)
    return [(name, block) for block in range(rounds) for name in schedule.order(comparisons, block, seed)]


def total_s(forecasts: Sequence[Forecast], budget: Budget) -> tuple[float, Range] | None:
    """Seconds of the whole run and their range; None where one comparison's are unknown.

    The total budget cuts: no block begins after it, so the last may end that much later.
    """
    likely, low, high = 0.0, 0.0, 0.0
    for one in forecasts:
        seconds = one.seconds
        if seconds is None or one.blocks_range is None:
            return None
        ends = [one.lasting_s(blocks) or 0.0 for blocks in one.blocks_range]
        likely, low, high = likely + seconds, low + ends[0], high + ends[1]
    longest_s = max(one.evidence.block_s for one in forecasts if one.evidence)
    cut = budget.total_s + longest_s / 2
    return min(likely, cut), (min(low, cut), min(high, cut))


def document(matrix: Matrix, runs: Sequence[StoredRun], *, launcher: str) -> dict[str, Any]:
    """What `bench plan --format json` prints.

    runs  of this machine, the newest first
    """
    family = sum(len(one.contrasts) for one in matrix.comparisons)
    least = stats.k_min(family)
    budget, names = matrix.budget, [one.id for one in matrix.comparisons]
    known = [best_evidence(one, runs, launcher=launcher, kind=matrix.schedule) for one in matrix.comparisons]
    forecasts = [forecast(one, two, budget, least) for one, two in zip(matrix.comparisons, known, strict=True)]
    total = total_s(forecasts, budget)
    return {
        "schema": SCHEMA,
        "matrix": matrix.name,
        "launcher": launcher,
        "seed": matrix.seed,
        "contrasts": family,
        "budget": {
            "half_width": budget.half_width,
            "blocks": budget.blocks,
            "least_blocks": budget.blocks or min(least, budget.max_blocks),
            "max_blocks": budget.blocks or budget.max_blocks,
            "per_comparison_s": budget.per_comparison_s,
            "total_s": budget.total_s,
        },
        "comparisons": [_comparison(one, two) for one, two in zip(matrix.comparisons, forecasts, strict=True)],
        "seconds": total[0] if total else None,
        "seconds_range": list(total[1]) if total else None,
        "measuring_s": _measuring_s(forecasts),
        "reason": None if total else _unknown(forecasts),
        "seconds_at_most": _at_most_s(forecasts, budget),
        "blocks": [list(pair) for pair in planned_blocks(names, budget, least, matrix.seed)],
        "notes": [*matrix.notes, *filter(None, [schedule.too_few_blocks(budget, family)]), NOT_INCLUDED],
    }


def _comparison(one: Comparison, predicted: Forecast) -> dict[str, Any]:
    known = predicted.evidence
    return {
        "id": one.id,
        "baseline": one.baseline,
        "arms": [{"id": arm.id, "cell": arm.cell.to_json()} for arm in one.arms],
        "from": known.run if known else None,
        "prologue_s": known.prologue_s if known else None,
        "block_s": known.block_s if known else None,
        "spread": max(known.spreads) if known and known.spreads else None,
        "blocks": predicted.blocks,
        "blocks_range": list(predicted.blocks_range) if predicted.blocks_range else None,
        "measuring_s": predicted.measuring_s,
        "seconds": predicted.seconds,
        "reason": predicted.reason,
    }


def _measuring_s(forecasts: Sequence[Forecast]) -> float | None:
    alone = [one.measuring_s for one in forecasts]
    known = [seconds for seconds in alone if seconds is not None]
    return sum(known) if len(known) == len(alone) else None


def _unknown(forecasts: Sequence[Forecast]) -> str:
    lacking = [one for one in forecasts if one.seconds is None]
    reasons = list(dict.fromkeys(one.reason for one in lacking if one.reason))
    return f"{len(lacking)} of {len(forecasts)} comparisons cannot be predicted: {'; '.join(reasons)}"


def _at_most_s(forecasts: Sequence[Forecast], budget: Budget) -> float:
    """When the last block begins at the latest: by the total budget, or by the comparisons' own."""
    prologues = [one.evidence.prologue_s for one in forecasts if one.evidence and one.evidence.prologue_s is not None]
    if len(prologues) < len(forecasts):
        return budget.total_s
    return min(budget.total_s, sum(prologues) + len(forecasts) * budget.per_comparison_s)


def _blocks(known: Evidence, budget: Budget, least: int, factor: float) -> int:
    """Blocks until the comparison stops, at `factor` times the spread that was seen."""
    if budget.blocks is not None:
        wanted = budget.blocks
    else:
        needed = [stats.blocks_needed(factor * spread, budget.half_width) for spread in known.spreads]
        most = budget.max_blocks
        wanted = min(most, max(least, 2, *(most if count is None else count for count in needed)))
    return min(wanted, max(1, math.ceil(budget.per_comparison_s / known.block_s)))


def _spread_factors(blocks: int) -> Range:
    """The ends of the interval of a standard deviation ÷ the one that was seen, from chi squared."""
    from scipy import stats as scipy_stats

    if blocks < 2:
        return 1.0, 1.0
    tail, freedom = (1 - SPREAD_CONFIDENCE) / 2, blocks - 1
    high, low = (float(scipy_stats.chi2.ppf(q, freedom)) for q in (1 - tail, tail))
    return math.sqrt(freedom / high), math.sqrt(freedom / low)


def _spreads(run: StoredRun, name: str, entry: Mapping[str, Any]) -> tuple[float, ...]:
    import statistics

    samples = frames.read(run)
    baseline = entry["baseline"]
    sync = records.SYNC[records.DECIDES[entry["arms"][baseline]["phase"]]]
    found = []
    certificates = run.certificates_of(name)
    for arm in entry["arms"]:
        if arm in certificates and certificates[arm]["status"] in records.MEASURED:
            rounds = frames.round_log_ratios(samples, name, baseline=baseline, arm=arm, sync=sync)
            d = [stats.block_log_ratio(block) for block in rounds]
            if len(d) >= 2:
                found.append(statistics.stdev(d))
    return tuple(found)


def _signature(cells: Any) -> list[str]:
    """What makes cells the same here, order aside: every axis but the launcher, a framework's version and its image."""
    plain = []
    for cell in cells:
        framework = {key: value for key, value in cell["framework"].items() if key not in ("version", "image")}
        plain.append(json.dumps({**cell, "framework": framework, "launcher": None}, sort_keys=True))
    return sorted(plain)
