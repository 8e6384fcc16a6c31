"""Where the comparisons of a run stand, by what is on disk alone: a resumed run stands where the killed one stood."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bench import records, stats, store
from bench.errors import InputError
from bench.estimate import frames
from bench.planning import schedule

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from bench.matrix.comparison import Comparison
    from bench.planning.schedule import Budget
    from bench.store import StoredRun

Ratios = dict[str, dict[str, float]]
"""d of every contrast by stem of its block, (arms,): read once, since a stored block never changes."""


@dataclass(frozen=True, kw_only=True)
class Stand:
    """Where a comparison stands: valid blocks, the widest half-width of its contrasts, why it is finished.

    remaining_s  what it should still take to the wanted half-width, by the spread so far; infinite past its limits
    out          the arms that are not started any more, and why
    """

    blocks: int
    half_width: float | None
    finished: str | None
    remaining_s: float = math.inf
    out: Mapping[str, str] = field(default_factory=dict)


def stand(
    comparison: Comparison, stored: StoredRun, ratios: Mapping[str, Mapping[str, float]], *, budget: Budget, least: int
) -> Stand:
    """Of one comparison; `least` are the blocks that every one gets before any is given more than another."""
    own = replace(stored, blocks=[record for record in stored.blocks if record["comparison"] == comparison.id])
    out = _left_out(comparison, own)
    series = _series(comparison, own, ratios, out)
    spent_s = sum(record["wall_s"] for record in own.blocks)
    given_up = schedule.given_up(
        own.blocks,
        budget,
        arms=[arm.id for arm in comparison.arms],
        essential=(records.REFERENCE, comparison.baseline),
        out=out,
    )
    return Stand(
        blocks=min(map(len, series), default=0),
        half_width=max((stats.half_width(one) for one in series if len(one) >= 2), default=None),
        finished=given_up or schedule.enough(series, budget, least, spent_s=spent_s),
        remaining_s=schedule.remaining_s(series, budget, least, spent_s=spent_s),
        out=out,
    )


def _left_out(comparison: Comparison, own: StoredRun) -> dict[str, str]:
    """The arms that are not started any more, and why: by their certificates, and by the blocks so far."""
    certificates = own.certificates_of(comparison.id)
    found = {
        arm: "parity failed" if one["status"] == "failed" else str(one["reason"])
        for arm, one in certificates.items()
        if one["status"] not in records.MEASURED
    }
    return found | records.left_out(own.blocks)


def fresh_ratios(stored: StoredRun, comparisons: Sequence[Comparison], known: Container[str]) -> Ratios:
    """The log-ratios of the blocks that are not known yet, all of them read at once."""
    valid = [record for record in records.latest(stored.blocks) if records.valid(record)]
    fresh = [record for record in valid if store.stem(record) not in known]
    samples = frames.read(replace(stored, blocks=[dict(record) for record in fresh]))
    found: Ratios = {store.stem(record): {} for record in fresh}
    for comparison in comparisons:
        sync = records.SYNC[records.DECIDES[comparison.arms[0].cell.phase]]
        own = [record for record in fresh if record["comparison"] == comparison.id]
        for baseline, arm in comparison.contrasts if own else ():
            both = [one for one in own if {baseline.id, arm.id} <= records.measured(one)]
            rounds = frames.round_log_ratios(samples, comparison.id, baseline=baseline.id, arm=arm.id, sync=sync)
            if len(rounds) < len(both):
                raise InputError(
                    f"{stored.folder}: samples of a kept block of {comparison.id} are missing; it is damaged"
                )
            for record, block in zip(both, rounds, strict=True):
                found[store.stem(record)][arm.id] = stats.block_log_ratio(block)
    return found


def _series(
    comparison: Comparison, own: StoredRun, ratios: Mapping[str, Mapping[str, float]], out: Container[str]
) -> list[list[float]]:
    """The log-ratios of every certified contrast that is still measured, one value a valid block."""
    certified = own.certificates_of(comparison.id).keys()
    valid = [record for record in records.latest(own.blocks) if records.valid(record)]
    rows = [ratios[store.stem(record)] for record in valid]
    arms = [arm.id for _, arm in comparison.contrasts if arm.id in certified and arm.id not in out]
    return [[row[arm] for row in rows if arm in row] for arm in arms]
