"""What differs between two runs on record: of the machine and the program, and of each arm (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bench import records
from bench.estimate.names import code
from bench.text import clean

if TYPE_CHECKING:
    from bench.store import StoredRun

Json = Mapping[str, Any]

LOAD_STEP = 0.5  # a load average that differs by less is no news
_OF_THE_RUN = ("launcher", "base", "bench", "seed", "schedule", "data")
_TOLD_APART = ("schema", "commit", "dirty", "bench", "load_average_1min")  # of the environment


def of_runs(before: Json, after: Json) -> list[str]:
    """One phrase for everything that differs between two run.json, machine and commit first."""
    machines = [before["environment"], after["environment"]]
    found = []
    if _machine(machines[0]) != _machine(machines[1]):
        found.append("another machine: nothing below is about the program alone")
    codes = [code(run.get("commit"), run["environment"]).removeprefix("commit ") for run in (before, after)]
    found += _changes("commit", *codes)
    for name in _OF_THE_RUN:
        found += _changes(name, before.get(name), after.get(name))
    found += _images(before.get("images") or {}, after.get("images") or {})
    left, right = ({key: value for key, value in one.items() if key not in _TOLD_APART} for one in machines)
    found += _changes("", left, right)
    loads = [one.get("load_average_1min") for one in machines]
    if None not in loads and abs(loads[1] - loads[0]) >= LOAD_STEP:
        found.append(f"load average at the start: {loads[0]:g} → {loads[1]:g}")
    return [clean(text) for text in found]


def of_arms(before: StoredRun, after: StoredRun, comparison: str, arms: tuple[str, str]) -> list[str]:
    """What is another arm now: its framework's parameters, the versions and settings its worker reported, its image.

    arms  its id in the one run and in the other
    """
    sides = list(zip((before, after), arms, strict=True))
    cells = [run.run["comparisons"][comparison]["arms"][arm] for run, arm in sides]
    found = list(_changes("framework", cells[0]["framework"], cells[1]["framework"]))
    ended = [_last(run, comparison, arm) for run, arm in sides]
    for name in ("versions", "image", "effective"):
        values = [outcome.get(name) for outcome in ended]
        if None not in values:
            found += _changes(name.removesuffix("s"), *values)
    return [clean(text) for text in found]


def of_cells(before: Json, after: Json) -> list[str]:
    """What two cells differ in beside their frameworks: what the arms of their comparisons share."""
    found: list[str] = []
    for axis in before:
        if axis != "framework":
            found += _changes(axis, before[axis], after.get(axis))
    return [clean(text) for text in found]


def _machine(description: Json) -> str | None:
    """The machine's key; None where a description is too old or too short to tell."""
    try:
        return records.machine_key(dict(description))
    except (KeyError, TypeError, AttributeError):
        return None


def _images(before: Json, after: Json) -> Iterator[str]:
    """By framework: what it was provided as. A framework of one run alone is another arm, and told there."""
    for name in before:
        if name in after:
            yield from _changes(name, *({key: one[name].get(key) for key in _PROVISION} for one in (before, after)))


_PROVISION = ("version", "lock", "image", "base")


def _changes(name: str, before: Any, after: Any) -> Iterator[str]:
    """`name: old → new`, mappings key by key."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            yield from _changes(f"{name} {key}".strip(), before.get(key), after.get(key))
    elif before != after:
        yield f"{name}: {_short(before)} → {_short(after)}"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:26]}…{text[-8:]}"


def _last(run: StoredRun, comparison: str, arm: str) -> Json:
    """The newest outcome that the arm was measured with."""
    outcomes = (record["arms"].get(arm, {}) for record in reversed(run.blocks) if record["comparison"] == comparison)
    return next((outcome for outcome in outcomes if outcome.get("status") == "measured"), {})
