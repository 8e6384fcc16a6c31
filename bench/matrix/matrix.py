"""A matrix: YAML -> cells -> comparisons, as one frozen value.

The way there: `source` (text to a tree with lines), `model` (what may stand in it), `file` (every fault a sentence),
`cells` (product, exclude, include), `comparison` (who is measured against whom).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.errors import InputError
from bench.matrix import file as matrix_file
from bench.matrix.cells import expand
from bench.matrix.comparison import Arm, Baseline, BaselineAbsent, Comparison, NothingToCompare, compare_cells, few
from bench.matrix.file import Document, built_in
from bench.matrix.model import schema, seconds
from bench.records import DEFAULT_HZ
from workloads.contract import AXES, Cell

__all__ = ["Arm", "Budget", "Comparison", "Matrix", "Telemetry", "built_in", "load", "schema", "seconds"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When to stop: at a half-width, after exactly `blocks` or at most `max_blocks`, or when the time is spent."""

    half_width: float = 0.02
    blocks: int | None = None
    max_blocks: int = 40
    per_comparison_s: float = 300.0
    total_s: float = 3600.0


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """What is read beside the measurement.

    hz      readings a second
    soak_s  how long each arm runs on in every block, outside the ratios; None: where something slow is read
    """

    hz: float = DEFAULT_HZ
    soak_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """What a run measures.

    source       the file's name as given; for messages and the record
    cells        every cell, in the order of the axes; the ones without a partner too
    comparisons  what is measured: groups of cells that differ on `compare` alone. A cell that is alone in its group
                 (in a mode, say, that its framework alone has) is in no comparison and is not
                 measured; `notes` names it
    schedule     `lockstep`, or `serial`: no two arms of a block up together
    notes        one sentence each: cells left out, without a partner, or with another batch size than asked
    """

    name: str
    source: str
    compare: tuple[str, ...]
    baseline: Baseline
    cells: tuple[Cell, ...]
    comparisons: tuple[Comparison, ...]
    budget: Budget
    seed: int
    schedule: str = "lockstep"
    telemetry: Telemetry = Telemetry()
    notes: tuple[str, ...] = ()

    @property
    def launchers(self) -> tuple[str, ...]:
        """The launchers that the compared cells name."""
        return tuple(sorted({arm.cell.launcher for one in self.comparisons for arm in one.arms}))

    def with_options(
        self,
        *,
        device: str | None = None,
        launcher: str | None = None,
        seed: int | None = None,
        budget_total_s: float | None = None,
    ) -> Matrix:
        """The same matrix with what the command line says instead; None keeps the matrix's own.

        raises  InputError: an option takes the difference away that the matrix compares
        """
        given = {axis: value for axis, value in (("device", device), ("launcher", launcher)) if value is not None}
        budget = self.budget if budget_total_s is None else replace(self.budget, total_s=budget_total_s)
        changed = replace(self, budget=budget, seed=self.seed if seed is None else seed)
        if not given:
            return changed
        options = " ".join(f"--{axis} {value}" for axis, value in given.items())
        return changed._with_cells([_moved(cell, given) for cell in self.cells], options)

    def with_auto_device(self, device: str) -> Matrix:
        """The same matrix with `device` where a cell says auto. Raises InputError, as `with_options` does."""
        cells = [_moved(cell, {"device": device}) if cell.device == "auto" else cell for cell in self.cells]
        return self._with_cells(cells, f"device auto, which is {device} here")

    def _with_cells(self, cells: Sequence[Cell], why: str) -> Matrix:
        unique = tuple(dict.fromkeys(cells))
        try:
            comparisons, notes = _compared(unique, self.compare, self.baseline)
        except ValueError as error:
            raise InputError(f"{self.source} with {why}: {error}") from None
        kept = tuple(dict.fromkeys((*self.notes, *notes)))
        return replace(self, cells=unique, comparisons=comparisons, notes=kept)

    def resolved(self) -> dict[str, Any]:
        """Plain JSON from which `from_resolved` makes the same matrix, without its file."""
        return {
            "name": self.name,
            "source": self.source,
            "compare": list(self.compare),
            "baseline": self.baseline,
            "cells": [cell.to_json() for cell in self.cells],
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "budget": asdict(self.budget),
            "seed": self.seed,
            "schedule": self.schedule,
            "telemetry": asdict(self.telemetry),
            "notes": list(self.notes),
        }

    @classmethod
    def from_resolved(cls, plain: Mapping[str, Any]) -> Matrix:
        """The inverse of `resolved`: a run folder's matrix."""
        return cls(
            name=plain["name"],
            source=plain["source"],
            compare=tuple(plain["compare"]),
            baseline=plain["baseline"],
            cells=tuple(Cell.from_json(cell) for cell in plain["cells"]),
            comparisons=tuple(Comparison.from_json(one) for one in plain["comparisons"]),
            budget=Budget(**plain["budget"]),
            seed=plain["seed"],
            schedule=plain["schedule"],
            telemetry=Telemetry(**plain["telemetry"]),
            notes=tuple(plain["notes"]),
        )


def load(given: str | Mapping[str, Any], *, yes: bool = False) -> Matrix:
    """The matrix of a built-in name (`quick`, `default`), of a YAML file, or of a mapping that is written like one.

    yes     allow more than 10,000 cells
    raises  InputError: the first thing wrong, one sentence with file and line
    """
    document = matrix_file.read(given)
    cells, notes = expand(document, yes=yes)
    file = document.file
    compare, baseline = _compare(document), _baseline(document)
    try:
        comparisons, more = _compared(cells, compare, baseline)
    except NothingToCompare as error:
        why = "; ".join([*notes, f"so {error}"]) if notes else str(error)
        raise document.error(("axes", compare[0]), why) from None
    except BaselineAbsent as error:
        raise document.error(("baseline",), str(error)) from None
    return Matrix(
        name=document.name,
        source=document.label,
        compare=compare,
        baseline=baseline,
        cells=cells,
        comparisons=comparisons,
        budget=_budget(document),
        seed=file.seed,
        schedule=file.schedule,
        telemetry=Telemetry(hz=file.telemetry.hz, soak_s=file.telemetry.soak),
        notes=(*notes, *more),
    )


def _compared(
    cells: tuple[Cell, ...], compare: tuple[str, ...], baseline: Baseline
) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    comparisons, alone = compare_cells(cells, compare=compare, baseline=baseline)
    if not alone:
        return comparisons, ()
    return comparisons, (f"not measured, as nothing differs from it on {' and '.join(compare)} alone: {few(alone)}",)


def _compare(document: Document) -> tuple[str, ...]:
    """The compared axes in the order of all axes."""
    given = document.file.compare
    for index, axis in enumerate(given):
        if axis in given[:index]:
            raise document.error(("compare", index), f'compare names "{axis}" twice; keep one')
    return tuple(axis for axis in AXES if axis in given)


def _baseline(document: Document) -> Baseline:
    """The baseline as written, its keys checked."""
    given = document.file.baseline
    if not isinstance(given, dict) or "name" in given:
        return given
    for key in given:
        if key not in document.file.compare:
            advice = matrix_file.advice(key, document.file.compare)
            raise document.error(("baseline", key), f'baseline "{key}" is not compared; {advice}', key=True)
    return given


def _budget(document: Document) -> Budget:
    given = document.file.budget
    if given.blocks is not None and "max_blocks" in given.model_fields_set and given.blocks > given.max_blocks:
        sentence = f"blocks {given.blocks} is more than max_blocks {given.max_blocks}; leave max_blocks out"
        raise document.error(("budget", "blocks"), sentence)
    return Budget(
        half_width=given.half_width,
        blocks=given.blocks,
        max_blocks=given.max_blocks,
        per_comparison_s=given.per_comparison,
        total_s=given.total,
    )


def _moved(cell: Cell, given: Mapping[str, str]) -> Cell:
    return Cell(**{**{axis: getattr(cell, axis) for axis in AXES}, **given})
