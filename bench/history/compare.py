"""Two runs: what became slower or faster between them, and how sure that is (pure over stored runs).

A cell is held against itself by its CPU time a step, which other processes lengthen far less than wall time, and
against its baseline in the same blocks, where most of the machine cancels. Two runs are two sessions: what a whole
session adds is in every uncertainty (docs/decisions/0006-what-two-runs-can-show.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench import stats
from bench.history import differences, words
from bench.history.change import Change, change, shown
from bench.history.pairing import CPU, WALL, Lone, Pair, pair_up, session

if TYPE_CHECKING:
    from bench.store import StoredRun

Json = dict[str, Any]

SCHEMA = "bench.compare/1"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A pair of cells with its changes.

    own      of its CPU time a step, of its wall time on a GPU
    wall     of its wall time a step
    against  of its ratio to the baseline, by column
    p_holm   corrected over all tests of the two runs, by `own` or column
    """

    pair: Pair
    own: Change
    wall: Change
    against: Mapping[str, Change]
    p_holm: Mapping[str, float | None]

    @property
    def by(self) -> str:
        """What its own change is of."""
        return "wall" if self.pair.device == "cuda" else "cpu"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A difference that is shown for a cell.

    by     cpu or wall: its own time; baseline: its ratio to another arm
    other  the arm that it is shown against
    sure   whether the other arm is the same on record, so that the change is this one's
    """

    by: str
    change: Change
    p_holm: float | None
    other: str | None = None
    sure: bool = False

    @property
    def slower(self) -> bool:
        """Whether it takes longer."""
        return (self.change.ratio or 1.0) > 1


def compare(before: StoredRun, after: StoredRun, *, fail_above: float | None = None) -> Json:
    """The document that `bench compare --format json` prints.

    fail_above  a share: 0.05 is 5 %
    raises      InputError: the runs hold no comparison in common
    """
    left, right = session(before), session(after)
    pairs, lone = pair_up(left, right)
    judged = verdicts(pairs, fail_above=fail_above)
    shared = {pair.comparison: pair.arms for pair in pairs}
    return {
        "schema": SCHEMA,
        "before": _about(before),
        "after": _about(after),
        "fail_above": fail_above,
        "failed": any(one["above"] for one in judged),
        "changed": differences.of_runs(before.run, after.run),
        "comparisons": [
            {"id": name, "changed": _shared_changes(left.comparisons[name], right.comparisons[name], arms)}
            for name, arms in shared.items()
        ],
        "cells": [*judged, *(_missing(one) for one in lone)],
        "unseen": words.unseen(judged, lone, tests=sum(1 + len(pair.against) for pair in pairs), limit=fail_above),
    }


def verdicts(pairs: Sequence[Pair], *, fail_above: float | None = None) -> list[Json]:
    """Every pair's cell with its verdict, comparison by comparison; `above` is whether it is slower past the limit."""
    groups: dict[str, list[Cell]] = {}
    for cell in _corrected([_measured(pair) for pair in pairs]):
        groups.setdefault(cell.pair.comparison, []).append(cell)
    judged = [one for group in groups.values() for one in _judged(group)]
    limit = math.inf if fail_above is None else math.log1p(fail_above)
    for one in judged:
        one["above"] = one["verdict"] == "slower" and math.log(one["change"]) > limit
    return judged


def _measured(pair: Pair) -> Cell:
    wall = change(*pair.wall)
    gpu = pair.device == "cuda"
    return Cell(
        pair=pair,
        own=wall if gpu else change(*pair.cpu),
        wall=wall,
        against={column: change(*logs) for column, logs in pair.against.items() if column == WALL or not gpu},
        p_holm={},
    )


def _corrected(cells: Sequence[Cell]) -> list[Cell]:
    """Holm over every test of both runs: each cell's own, and each of its ratio to its baseline."""
    tests = [(place, key, one.p) for place, cell in enumerate(cells) for key, one in _tests(cell).items()]
    corrected: list[dict[str, float | None]] = [{} for _ in cells]
    for (place, key, _), p_holm in zip(tests, stats.holm([p for _, _, p in tests]), strict=True):
        corrected[place][key] = p_holm
    return [
        Cell(pair=cell.pair, own=cell.own, wall=cell.wall, against=cell.against, p_holm=p_holm)
        for cell, p_holm in zip(cells, corrected, strict=True)
    ]


def _tests(cell: Cell) -> dict[str, Change]:
    return {"own": cell.own, **cell.against}


def _judged(group: Sequence[Cell]) -> list[Json]:
    """The cells of one comparison, each with its verdict."""
    claims = [_claim(cell, group) for cell in group]
    alike = len(group) > 1 and _alike(claims)
    return [_cell(cell, claim, group, claims, alike) for cell, claim in zip(group, claims, strict=True)]


def _claim(cell: Cell, group: Sequence[Cell]) -> Claim | None:
    """The best of what is shown: against an arm that is the same on record first, then the narrowest interval."""
    found = list(_against_others(cell, group))
    if shown(cell.p_holm["own"]) and _agree(cell.own, cell.wall, cell.pair.threads):
        found.append(Claim(by=cell.by, change=cell.own, p_holm=cell.p_holm["own"]))
    return min(found, key=lambda claim: (not claim.sure, _width(claim.change)), default=None)


def _against_others(cell: Cell, group: Sequence[Cell]) -> list[Claim]:
    """The ratios that are shown to have changed, and whose change is laid to this cell rather than to the other."""
    found = []
    for arm in group:
        baseline = next((one for one in group if one.pair.baseline), None)
        if arm is baseline or baseline is None or cell not in (arm, baseline):
            continue
        moved, sure = _mover(arm, baseline)
        if moved is not cell:
            continue
        other = (baseline if cell is arm else arm).pair.label
        for column, one in arm.against.items():
            if shown(arm.p_holm[column]) and _agree(one, arm.against[WALL], arm.pair.threads):
                seen = one if cell is arm else one.inverse()
                found.append(Claim(by="baseline", change=seen, p_holm=arm.p_holm[column], other=other, sure=sure))
    return found


def _mover(arm: Cell, baseline: Cell) -> tuple[Cell, bool]:
    """Which of two arms a change of their ratio is laid to, and whether the record says so.

    An arm that is the same on record did not change by itself; where both or neither changed, it is the one whose own
    time moved more.
    """
    if bool(arm.pair.changed) != bool(baseline.pair.changed):
        return (arm if arm.pair.changed else baseline), True
    return (arm if _moved(arm.own) >= _moved(baseline.own) else baseline), False


def _cell(cell: Cell, claim: Claim | None, group: Sequence[Cell], claims: Sequence[Claim | None], alike: bool) -> Json:
    pair = cell.pair
    best = claim.change if claim else cell.own
    baseline = _baseline_of(group, claims, cell)
    if claim:
        verdict = "slower" if claim.slower else "faster"
        reason = words.difference(verdict, claim.change, by=claim.by, other=claim.other)
        same = not pair.changed and not any(_against_others(cell, group))
        reason += words.company(claim.by, claim.sure, baseline, alike=alike, same=same)
    elif cell.own.p_equal is not None and cell.own.p_equal < stats.ALPHA:
        verdict, reason = "equivalent", words.equivalent(cell.own, cell.by)
    else:
        verdict, reason = "inconclusive", words.undecided(cell.own, cell.wall, cell.by)
        reason += words.beside(cell.against.get(WALL), baseline)
    return {
        "id": f"{pair.comparison}/{pair.arms[1]}",
        "comparison": pair.comparison,
        "arms": {"before": pair.arms[0], "after": pair.arms[1]},
        "label": pair.label,
        "verdict": verdict,
        "change": best.ratio,
        "ci": list(best.ci) if best.ci else None,
        "by": claim.by if claim else cell.by,
        "p_holm": claim.p_holm if claim else cell.p_holm["own"],
        "reason": reason,
        "resolution": _resolution(cell),
        "changed": list(pair.changed),
        "step_ms": {side: _ms(logs) for side, logs in zip(("before", "after"), pair.wall, strict=True)},
        "cpu_ms": {side: _ms(logs) for side, logs in zip(("before", "after"), pair.cpu, strict=True)},
        "evidence": {
            "own": {"of": cell.by, **cell.own.to_json(cell.p_holm["own"])},
            "wall": cell.wall.to_json(),
            "against_baseline": {
                name: cell.against[column].to_json(cell.p_holm[column]) if column in cell.against else None
                for name, column in (("wall", WALL), ("cpu", CPU))
            },
        },
    }


def _baseline_of(group: Sequence[Cell], claims: Sequence[Claim | None], cell: Cell) -> tuple[str, str | None] | None:
    """The baseline's name and what is claimed of it; None for the baseline itself, or without one."""
    for one, claim in zip(group, claims, strict=True):
        if one.pair.baseline and one is not cell:
            return one.pair.label, None if claim is None else "slower" if claim.slower else "faster"
    return None


def _missing(one: Lone) -> Json:
    nothing = dict.fromkeys(("change", "ci", "by", "p_holm", "resolution", "step_ms", "cpu_ms", "evidence"))
    return {
        "id": f"{one.comparison}/{one.arm}",
        "comparison": one.comparison,
        "arms": None,
        "label": one.label,
        "verdict": "missing",
        "reason": one.reason,
        **nothing,
        "changed": [],
        "above": False,
    }


def _shared_changes(before: Mapping[str, Any], after: Mapping[str, Any], arms: tuple[str, str]) -> list[str]:
    """What changed on record of a comparison as a whole: its workload's parameters, threads, launcher."""
    return differences.of_cells(before["arms"][arms[0]], after["arms"][arms[1]])


def _about(run: StoredRun) -> Json:
    plain = run.run
    keys = ("id", "started_at", "finished_at", "launcher", "commit", "seed")
    return {**{key: plain.get(key) for key in keys}, "matrix": plain.get("matrix", {}).get("name")}


def _alike(claims: Sequence[Claim | None]) -> bool:
    """Whether every arm changed by its own time, the same way, and no ratio among them did."""
    ways = {None if claim is None or claim.by == "baseline" else claim.slower for claim in claims}
    return len(ways) == 1 and None not in ways


def _agree(one: Change, wall: Change, threads: int) -> bool:
    """Whether a change of CPU time is a change of time.

    One thread takes as long as its CPU time and its waiting, which is the machine's; several may spend more of it side
    by side in the same time, so that their wall time may not contradict.
    """
    if threads == 1 or one.ci is None or wall.ci is None:
        return True
    return one.ci[0] <= wall.ci[1] and wall.ci[0] <= one.ci[1]


def _moved(one: Change) -> float:
    return abs(math.log(one.ratio)) if one.ratio else 0.0


def _width(one: Change) -> float:
    return math.log(one.ci[1] / one.ci[0]) if one.ci else math.inf


def _resolution(cell: Cell) -> float | None:
    """The half-width of its narrowest evidence, as a share: what is smaller cannot be shown."""
    width = min(_width(one) for one in _tests(cell).values())
    return math.expm1(width / 2) if math.isfinite(width) else None


def _ms(logs: Sequence[float]) -> float | None:
    """The geometric mean over blocks."""
    return math.exp(sum(logs) / len(logs)) / 1e6 if logs and all(map(math.isfinite, logs)) else None
