"""Cells to comparisons: which cells are measured against which, under which names (pure)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench import frameworks
from bench.matrix.model import spec_of
from bench.text import quoted
from workloads.contract import AXES, STUB, Cell, Named, Value

Baseline = str | int | dict[str, Any] | None

# The axes that every comparison's id spells out, whether they vary or not.
_ALWAYS = ("workload", "phase", "mode", "batch_size")
_ID_LIMIT = 100


class NothingToCompare(ValueError):  # noqa: N818 - a state of the matrix
    """No two cells differ on the compared axes alone; one sentence."""


class BaselineAbsent(ValueError):  # noqa: N818
    """The baseline is not exactly one arm of a comparison; one sentence."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A cell as a side of a comparison; `id` spells out its values on the compared axes."""

    id: str
    cell: Cell


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Arms that differ on the axes `compare` alone; `id` is unique in its matrix, `baseline` the id of one arm."""

    id: str
    compare: tuple[str, ...]
    arms: tuple[Arm, ...]
    baseline: str

    @property
    def baseline_arm(self) -> Arm:
        """The arm that ratios are taken against."""
        return next(arm for arm in self.arms if arm.id == self.baseline)

    @property
    def contrasts(self) -> tuple[tuple[Arm, Arm], ...]:
        """Every pair of the baseline with another arm."""
        return tuple((self.baseline_arm, arm) for arm in self.arms if arm.id != self.baseline)

    @property
    def is_stub(self) -> bool:
        """Whether its arms do known work, which differs on purpose, instead of a framework's."""
        return self.arms[0].cell.workload.name == STUB

    @property
    def needs_data(self) -> bool:
        """Whether its workload reads MNIST."""
        return spec_of(self.arms[0].cell.workload.name).NEEDS_DATA

    def only(self, arms: Iterable[str]) -> Comparison:
        """The same comparison of these arms alone, in their order."""
        kept = set(arms)
        return replace(self, arms=tuple(arm for arm in self.arms if arm.id in kept))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, cells spelt out."""
        arms = [{"id": arm.id, "cell": arm.cell.to_json()} for arm in self.arms]
        return {"id": self.id, "compare": list(self.compare), "baseline": self.baseline, "arms": arms}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Comparison:
        """The inverse of `to_json`."""
        arms = tuple(Arm(id=arm["id"], cell=Cell.from_json(arm["cell"])) for arm in plain["arms"])
        return cls(id=plain["id"], compare=tuple(plain["compare"]), arms=arms, baseline=plain["baseline"])


def compare_cells(
    cells: Sequence[Cell], *, compare: tuple[str, ...], baseline: Baseline
) -> tuple[tuple[Comparison, ...], tuple[Cell, ...]]:
    """Group cells that are equal on every axis but the compared ones, in the order of their first cell.

    returns  the comparisons, and the cells without a partner: alone in their group, they cannot be measured against
             anything
    raises   NothingToCompare: every cell is alone
             BaselineAbsent: in some comparison no arm, or more than one, is the baseline
    """
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(getattr(cell, axis) for axis in AXES if axis not in compare), []).append(cell)
    alone = tuple(group[0] for group in groups.values() if len(group) == 1)
    full = [group for group in groups.values() if len(group) > 1]
    if not full:
        raise NothingToCompare(
            f"no two cells differ on {' and '.join(compare)} alone, so there is nothing to compare; "
            f"give {' or '.join(compare)} a second value, or compare another axis"
        )
    spell = _Spelling(cells)
    ids = _unique(spell.comparison(group[0], compare) for group in full)
    return tuple(_comparison(id_, group, spell, compare, baseline) for id_, group in zip(ids, full, strict=True)), alone


def few(cells: Iterable[Cell]) -> str:
    """The first three cells in a few words each, and how many more there are: for notes."""
    names = list(
        dict.fromkeys(f"{c.workload.name} {c.framework.name} {c.phase} {c.mode} b{c.batch_size}" for c in cells)
    )
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def covers(value: Any, wanted: Any) -> bool:
    """Whether a cell's value is the one wanted: a name without parameters covers every variant of that name."""
    if not isinstance(value, Named):
        return bool(value == wanted)
    if isinstance(wanted, Named):
        wanted = {"name": wanted.name, **wanted.mapping}
    elif not isinstance(wanted, dict):
        wanted = {"name": wanted}
    have = {"name": value.name, **value.mapping}
    return all(key in have and have[key] == part for key, part in wanted.items())


def _comparison(
    id_: str, group: Sequence[Cell], spell: _Spelling, compare: tuple[str, ...], baseline: Baseline
) -> Comparison:
    ids = _unique(spell.arm(cell, compare) for cell in group)
    arms = tuple(Arm(id=arm_id, cell=cell) for arm_id, cell in zip(ids, group, strict=True))
    return Comparison(id=id_, compare=compare, arms=arms, baseline=_baseline(id_, arms, compare, baseline))


def _baseline(comparison: str, arms: Sequence[Arm], compare: tuple[str, ...], wanted: Baseline) -> str:
    if wanted is None:
        usual = frameworks.defaults()[0]
        first_choice = [arm for arm in arms if compare == ("framework",) and arm.cell.framework.name == usual]
        return (first_choice or list(arms))[0].id
    found = [arm for arm in arms if arm.id == wanted] or [arm for arm in arms if _is(arm.cell, wanted, compare)]
    if len(found) == 1:
        return found[0].id
    shown = quoted(wanted if isinstance(wanted, str) else str(wanted).replace("'", ""))
    names = ", ".join(arm.id for arm in arms)
    fault = "is none" if not found else "fits more than one"
    raise BaselineAbsent(f"baseline {shown} {fault} of the arms of {comparison}; choose one of {names}")


def _is(cell: Cell, wanted: Baseline, compare: tuple[str, ...]) -> bool:
    if not isinstance(wanted, dict):
        return len(compare) == 1 and covers(getattr(cell, compare[0]), wanted)
    by_axis = {"framework": wanted} if "name" in wanted else wanted
    return all(axis in compare and covers(getattr(cell, axis), value) for axis, value in by_axis.items())


class _Spelling:
    """Short, readable names: what always matters, and what varies among the cells of this matrix."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.varying = {axis for axis in AXES if len({getattr(cell, axis) for cell in cells}) > 1}
        named = {cell.workload for cell in cells}
        self.workload_keys = {
            name: _telling_keys([one for one in named if one.name == name], spec_of(name).PARAMETERS)
            for name in {one.name for one in named}
        }

    def comparison(self, cell: Cell, compare: tuple[str, ...]) -> str:
        """Such as `mnist_cnn-train-eager-b64`."""
        axes = [axis for axis in AXES if axis not in compare and (axis in _ALWAYS or axis in self.varying)]
        return self._spell(cell, axes)

    def arm(self, cell: Cell, compare: tuple[str, ...]) -> str:
        """Such as `tensorflow`, `pytorch-2.12.1` or `tensorflow-graph`."""
        return self._spell(cell, [axis for axis in AXES if axis in compare])

    def _spell(self, cell: Cell, axes: Iterable[str]) -> str:
        return "-".join(word for axis in axes for word in self._words(axis, getattr(cell, axis)))[:_ID_LIMIT]

    def _words(self, axis: str, value: Any) -> list[str]:
        if axis == "workload":
            return [value.name, *(_word(key, value.get(key)) for key in self.workload_keys[value.name])]
        if axis == "framework":
            version, image = value.get("version"), value.get("image")
            parts = [version, _short_image(str(image)) if image else None]
            stub = [_word(key, part) for key, part in value.parameters if key not in {"version", "image"}]
            return [value.name, *(_slug(part) for part in parts if part), *stub]
        prefix = {"batch_size": "b", "threads": "t"}.get(axis, "")
        return [f"{prefix}{_slug(value)}"]


def _telling_keys(variants: Sequence[Named], order: Sequence[str]) -> list[str]:
    """The fewest parameters, in the spec's order, that tell variants of one workload apart."""
    keys: list[str] = []

    def told() -> int:
        return len({tuple(one.get(key) for key in keys) for one in variants})

    for key in order:
        before = told()
        keys.append(key)
        if told() == before:
            keys.pop()
    return keys


def _word(key: str, value: Value) -> str:
    return _slug(value) if isinstance(value, str) else f"{key}{_slug(value)}"


def _short_image(name: str) -> str:
    """The last part of an image's name; twelve digits of a digest are enough to tell it by."""
    return re.sub(r"(sha256:[0-9a-f]{12})[0-9a-f]+", r"\1", name.rsplit("/", 1)[-1])


def _slug(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "_", str(value))


def _unique(names: Iterable[str]) -> list[str]:
    """The names in order, later ones that would repeat an earlier one with a number."""
    used: set[str] = set()
    return [_unused(name, used.__contains__, used.add) for name in names]


def _unused(name: str, is_used: Callable[[str], bool], use: Callable[[str], None]) -> str:
    free, count = name, 1
    while is_used(free):
        count += 1
        free = f"{name}-{count}"
    use(free)
    return free
