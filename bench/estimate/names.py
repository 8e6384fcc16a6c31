"""How arms, workloads and figures are called (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench import frameworks
from bench.text import clean

Cell = Mapping[str, Any]
EVALUATION_FAILED = "the evaluation failed"  # a null's reason begins so
_PLAIN = {"mode": "", "phase": "", "precision": "", "device": "", "division": "", "launcher": ""}
_UNITS = {"batch_size": "batch ", "threads": "threads "}
# Named in every row already; the rest is said once, or in the row where it varies.
_ROW_AXES = ("workload", "framework", "mode", "phase", "batch_size")


def code(commit: str | None, environment: Mapping[str, Any]) -> str:
    """Which code it was: its commit, with a word where it differs from it; a plain wheel's version."""
    if commit:
        return f"commit {commit[:12]}" + (" with changes" if environment.get("dirty") else "")
    version = environment.get("bench")
    return f"version {version}" if version else "commit unknown"


def arm_labels(arms: Mapping[str, Cell], compare: Sequence[str]) -> dict[str, str]:
    """What each arm of a comparison is called: "TF", "PyTorch 2.12.1", "TF graph"."""
    several = _several_versions(arms.values())
    labels = {arm: _arm_label(cell, compare, several) for arm, cell in arms.items()}
    taken = list(labels.values())
    return {arm: label if taken.count(label) == 1 else arm for arm, label in labels.items()}


def workload_labels(cells: Mapping[str, Cell]) -> dict[str, str]:
    """What the workload of each comparison is called; parameters are named only where they tell two apart.

    cells  one of each comparison
    """
    labels = {}
    for key, cell in cells.items():
        own = cell["workload"]
        alike = [other["workload"] for other in cells.values() if other["workload"]["name"] == own["name"]]
        labels[key] = " ".join([own["name"], *_telling(own, alike)])
    return labels


def varying_axes(cells: Iterable[Cell]) -> list[str]:
    """The axes beside the row's own that do not have one value in all cells."""
    first, *others = list(cells) or [{}]
    return [axis for axis in first if axis not in _ROW_AXES and any(cell[axis] != first[axis] for cell in others)]


def axis_value(axis: str, cell: Cell) -> str:
    """An axis in a few words: "batch 64", "threads 2", "compiled"."""
    return f"{_UNITS.get(axis, '' if axis in _PLAIN else f'{axis} ')}{cell[axis]}"


def fixed_axes(cells: Sequence[Cell]) -> list[str]:
    """What all cells have in common beside the row's own axes."""
    varying = varying_axes(cells)
    told = {*_ROW_AXES, *varying, "launcher"}
    return [axis_value(axis, cells[0]) for axis in cells[0] if axis not in told] if cells else []


def own_version(cell: Mapping[str, Any]) -> str | None:
    """The version of a cell's framework as its worker reported it, else as the matrix asked for."""
    name = cell["cell"]["framework"]["name"]
    known = frameworks.get(name)
    found = [cell["versions"].get(key) for key in (name, known.libraries[0] if known else name)]
    return next((str(version) for version in found if version), cell["cell"]["framework"].get("version"))


def _arm_label(cell: Cell, compare: Sequence[str], several_versions: bool) -> str:
    framework = cell["framework"]
    known = frameworks.get(framework["name"])
    words = [known.label if known else framework["name"]]
    if several_versions:
        words += [str(framework[key]) for key in ("version", "image") if framework.get(key)]
    words += [f"{key} {value}" for key, value in framework.items() if key not in {"name", "version", "image"}]
    words += [axis_value(axis, cell) for axis in compare if axis != "framework" and axis in cell]
    return clean(" ".join(words))


def _several_versions(cells: Iterable[Cell]) -> bool:
    names = [cell["framework"]["name"] for cell in cells]
    return len(set(names)) < len(names) and len({str(cell["framework"]) for cell in cells}) > len(set(names))


def _telling(own: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]) -> list[str]:
    """The parameters that tell a workload from others of its name, as few as do."""
    parts = [str(own["preset"])] if own.get("preset", "standard") != "standard" else []
    left = [other for other in alike if other != own]
    for key in sorted(own, key=lambda key: (key != "preset", key not in {"n", "d"}, key)):
        apart = [other for other in left if other.get(key) != own[key]]
        if apart:
            left = [other for other in left if other.get(key) == own[key]]
            parts += [] if key == "preset" else [f"{key}={own[key]}"]
    return [clean(part) for part in parts]
