"""Which cell of one run is which of another, and the log times that both were measured at (pure over stored runs)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from bench import records
from bench.errors import InputError
from bench.estimate import frames, summary
from bench.history import differences

if TYPE_CHECKING:
    from bench.store import StoredRun

Json = Mapping[str, Any]
Samples = tuple[list[float], list[float]]  # logs, one a block that counts, before and after

WALL, CPU = "step_ns", "cpu_ns"
_BARRED = ("invalid", "failed", "unsupported")


@dataclass(frozen=True, kw_only=True)
class Session:
    """One run: its report, and the log times of the blocks that count by comparison, arm, column; by block, attempt."""

    run: StoredRun
    report: Json
    logs: dict[tuple[str, str, str], dict[tuple[int, int], float]]

    @property
    def comparisons(self) -> dict[str, Json]:
        """run.json's, by id."""
        return dict(self.run.run["comparisons"])

    def label(self, comparison: str, arm: str) -> str:
        """What readers know the arm by."""
        return next(str(cell["label"]) for cell in self.report["cells"] if cell["id"] == f"{comparison}/{arm}")

    def barred(self, comparison: str, arm: str) -> str | None:
        """Why this arm has no times, or none that count; None where it has."""
        own = f"{comparison}/{arm}"
        contrasts = [one for one in self.report["contrasts"] if own in (one["arm"], one["baseline"])]
        if contrasts and all(one["verdict"] in _BARRED for one in contrasts):
            return f"{contrasts[0]['verdict']}: {contrasts[0]['reason']}"
        return None if (comparison, arm, WALL) in self.logs else "it holds no whole block of it"

    def times(self, comparison: str, arm: str, column: str) -> list[float]:
        """Log times of a step."""
        return list(self.logs[comparison, arm, column].values())

    def ratios(self, comparison: str, arm: str, baseline: str, column: str) -> list[float]:
        """Log of arm ÷ baseline, for each block that holds both."""
        own, other = (self.logs.get((comparison, name, column), {}) for name in (arm, baseline))
        return [own[block] - other[block] for block in own if block in other]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One cell in both runs.

    arms      its ids before and after               wall     log wall time of a step
    baseline  whether ratios are taken against it    cpu      log CPU time of a step
    device    as it ran, on so many `threads`        against  log of its ratio to the baseline, by column; empty for
    changed   what is another arm on record                   the baseline, and where that has no pair
    """

    comparison: str
    arms: tuple[str, str]
    label: str
    baseline: bool
    device: str
    threads: int = 1
    wall: Samples
    cpu: Samples
    against: Mapping[str, Samples] = field(default_factory=dict)
    changed: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Lone:
    """A cell that one run lacks."""

    comparison: str
    arm: str
    label: str
    reason: str


def session(run: StoredRun) -> Session:
    """Read a run: one log time a block, the mean over its rounds, so that differences of arms are the report's d."""
    read = frames.read(run)
    rounds = read.rounds
    phases = {name: next(iter(one["arms"].values()))["phase"] for name, one in run.run["comparisons"].items()}
    deciding = {name: records.SYNC[records.DECIDES[phase]] for name, phase in phases.items()}
    own = [frames.counting(trials, [str(arm)]) for (_, arm), trials in read.trials.groupby(["comparison", "arm"])]
    of_trial = ["comparison", "block", "attempt", "arm"]
    counted = pd.concat(own) if own else read.trials
    places = pd.MultiIndex.from_frame(counted[of_trial])
    rows = rounds[rounds["sync"] == rounds["comparison"].map(deciding)]
    rows = rows[pd.MultiIndex.from_frame(rows[of_trial]).isin(places)]
    with np.errstate(all="ignore"):
        rows = rows.assign(**{column: np.log(rows[column].astype(float)) for column in (WALL, CPU)})
    means = rows.groupby(["comparison", "arm", "block", "attempt"])[[WALL, CPU]].mean()
    logs: dict[tuple[str, str, str], dict[tuple[int, int], float]] = {}
    for column in (WALL, CPU):
        for key, value in means[column].to_dict().items():
            comparison, arm, block, attempt = cast("tuple[str, str, int, int]", key)
            logs.setdefault((comparison, arm, column), {})[block, attempt] = float(value)
    return Session(run=run, report=summary.summarise(run), logs=logs)


def pair_up(before: Session, after: Session) -> tuple[list[Pair], list[Lone]]:
    """The cells of both runs, and those of one alone. Raises InputError where no comparison is in both."""
    shared = [name for name in before.comparisons if name in after.comparisons]
    if not shared:
        raise InputError(
            f"{before.run.folder} and {after.run.folder} hold no comparison in common (the first holds "
            f"{_some(before)}; the second {_some(after)}); name two runs of the same matrix"
        )
    pairs: list[Pair] = []
    lone: list[Lone] = []
    for name in shared:
        for found in _of_comparison(before, after, name):
            (pairs if isinstance(found, Pair) else lone).append(found)  # type: ignore[arg-type]
    for one, other, side in ((before, after, "before"), (after, before, "after")):
        for name in one.comparisons:
            if name not in other.comparisons:
                lone += [
                    _lone(one, name, arm, f"its comparison is in the run {side} alone") for arm in _arms(one, name)
                ]
    return pairs, lone


def match_arms(before: Json, after: Json) -> list[tuple[str, str]]:
    """The arms of one comparison in two runs: by id, and then those that differ in their framework's parameters alone.

    Where several could be meant they are taken in their order, baselines first; none where their numbers differ.
    """
    pairs = [(arm, arm) for arm in before["arms"] if arm in after["arms"]]
    same = {arm for arm, _ in pairs}
    kinds: dict[str, tuple[list[str], list[str]]] = {}
    for side, entry in enumerate((before, after)):
        left = [arm for arm in entry["arms"] if arm not in same]
        for arm in sorted(left, key=entry["baseline"].__ne__):
            kinds.setdefault(_kind(entry["arms"][arm], entry["compare"]), ([], []))[side].append(arm)
    for lefts, rights in kinds.values():
        if len(lefts) == len(rights):
            pairs += zip(lefts, rights, strict=True)
    place = list(before["arms"])
    return sorted(pairs, key=lambda pair: place.index(pair[0]))


def _kind(cell: Json, compare: Sequence[str]) -> str:
    """What an arm is on the compared axes, its framework's parameters apart."""
    values = {axis: cell[axis] for axis in compare}
    return json.dumps({**values, "framework": cell["framework"]["name"]}, sort_keys=True)


def _of_comparison(before: Session, after: Session, name: str) -> Iterator[Pair | Lone]:
    entries = before.comparisons[name], after.comparisons[name]
    matched = match_arms(*entries)
    baseline = next((arms for arms in matched if arms[0] == entries[0]["baseline"]), None)
    for arms in matched:
        barred = [one.barred(name, arm) for one, arm in zip((before, after), arms, strict=True)]
        for side, reason in zip(("before", "after"), barred, strict=True):
            if reason:
                yield _lone(before, name, arms[0], f"the run {side}: {reason}")
                break
        else:
            yield _pair(before, after, name, arms, baseline)
    for side, one, known in (("before", before, 0), ("after", after, 1)):
        for arm in _arms(one, name):
            if arm not in {arms[known] for arms in matched}:
                yield _lone(one, name, arm, f"it is in the run {side} alone")


def _pair(before: Session, after: Session, name: str, arms: tuple[str, str], baseline: tuple[str, str] | None) -> Pair:
    def both(column: str) -> Samples:
        return before.times(name, arms[0], column), after.times(name, arms[1], column)

    def ratios(column: str, to: tuple[str, str]) -> Samples:
        return before.ratios(name, arms[0], to[0], column), after.ratios(name, arms[1], to[1], column)

    cell = after.comparisons[name]["arms"][arms[1]]
    return Pair(
        comparison=name,
        arms=arms,
        label=after.label(name, arms[1]),
        baseline=arms == baseline,
        device=str(cell["device"]),
        threads=int(cell["threads"]),
        wall=both(WALL),
        cpu=both(CPU),
        against={column: ratios(column, baseline) for column in (WALL, CPU)} if baseline not in (None, arms) else {},
        changed=differences.of_arms(before.run, after.run, name, arms),
    )


def _lone(one: Session, name: str, arm: str, reason: str) -> Lone:
    return Lone(comparison=name, arm=arm, label=one.label(name, arm), reason=reason)


def _arms(one: Session, name: str) -> list[str]:
    return list(one.comparisons[name]["arms"])


def _some(one: Session) -> str:
    names = list(one.comparisons)
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "") if names else "none"
