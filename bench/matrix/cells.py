"""A matrix file to cells: the product of its axes, less exclude, plus include, with every parameter filled in."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from bench import frameworks
from bench.matrix.comparison import covers, few
from bench.matrix.file import Document, advice
from bench.matrix.model import Entry, Framework, Workload, spec_of
from bench.text import quoted
from workloads.contract import AXES, STUB, Cell, Named, Value

if TYPE_CHECKING:
    from bench.errors import InputError

CELLS_WITHOUT_YES = 10_000
CELLS_AT_ALL = 1_000_000
STUB_MODES = ("eager", "compiled")

Axes = dict[str, list[Any]]
Path = tuple[str | int, ...]


def expand(document: Document, *, yes: bool) -> tuple[tuple[Cell, ...], tuple[str, ...]]:
    """All cells in the order of the axes, the included ones last, and notes on what was left out or changed.

    yes     allow more than CELLS_WITHOUT_YES cells
    raises  InputError: one sentence with file and line
    """
    axes = _axes(document)
    included = [_completed(document, axes, index) for index in range(len(document.file.include))]
    _check_count(document, axes, included, yes=yes)
    product = _product(axes)
    for index in range(len(document.file.exclude)):
        for cell in _excluded(document, axes, index):
            product.pop(cell, None)
    dropped = {cell: reason for cell in product if (reason := missing(cell))}
    cells = dict.fromkeys(cell for cell in product if cell not in dropped)
    for index, entry in enumerate(included):
        cells.update(_included(document, entry, index, cells))
    if not cells:
        raise _no_cells(document, dropped)
    _check_stubs(document, cells)
    reasons = dict.fromkeys(dropped.values())
    notes = [f"{reason}: {few(cell for cell, why in dropped.items() if why == reason)} left out" for reason in reasons]
    run, changes = _as_run(cells)
    return run, (*notes, *changes)


def _axes(document: Document) -> Axes:
    """The values of every axis, names with their complete parameters; no value twice."""
    given = document.file.axes
    axes: Axes = {axis: list(getattr(given, axis)) for axis in AXES}
    axes["workload"] = [
        _workload(document, item, ("axes", "workload", index)) for index, item in enumerate(given.workload)
    ]
    axes["framework"] = [
        _checked_framework(document, item, ("axes", "framework", index)) for index, item in enumerate(given.framework)
    ]
    if document.file.threads is not None:
        if "threads" in given.model_fields_set:
            raise document.error(("threads",), "threads is given here and under axes; keep one of them", key=True)
        axes["threads"] = [document.file.threads]
    for axis, values in axes.items():
        _check_distinct(document, axis, values)
    return axes


def _check_distinct(document: Document, axis: str, values: Sequence[Any]) -> None:
    seen = set()
    for index, value in enumerate(values):
        if value in seen:
            shown = f"{value.name}, with equal parameters," if axis == "workload" else str(value)
            raise document.error(("axes", axis, index), f"{axis} {shown} stands on the axis twice; keep one")
        seen.add(value)


def _checked_framework(document: Document, item: Framework, path: Path) -> Named:
    """A framework whose parameters are its own: an image is no stub's, and known work is no framework's."""
    stubs = ("work", "noise", "slows", "slows_from", "slows_until", "recompiles", "dies_at")
    own = stubs if item.name == STUB else ("version", "image")
    for key in item.parameters:
        if key not in own:
            raise document.error((*path, key), f'{item.name} has no "{key}"; choose {" or ".join(own)}', key=True)
    return _framework(item)


def _framework(item: Framework) -> Named:
    return Named.of(item.name, item.parameters)


def _workload(document: Document, item: Workload, path: Path) -> Named:
    """A workload with all its parameters, as its spec completes them."""
    given = _given(document, item, path)
    try:
        return Named.of(item.name, spec_of(item.name).parameters(given))
    except ValueError as error:
        words = re.findall(r"\w+", str(error))
        guilty = next((key for key in words if key in given), None)
        at = (*path, guilty) if guilty else path
        raise document.error(at, f"{item.name}: {error}", key=bool(guilty)) from None


def _given(document: Document, item: Workload, path: Path) -> dict[str, Value]:
    """A workload's parameters as written, their names checked."""
    given = item.model_extra or {}
    known = spec_of(item.name).PARAMETERS
    for key, value in given.items():
        if key not in known:
            sentence = f"{item.name} parameter {quoted(key)} is unknown; {advice(key, known)}"
            raise document.error((*path, key), sentence, key=True)
        if isinstance(value, dict | list):
            raise document.error((*path, key), f"{item.name} parameter {quoted(key)} must be one value, not several")
    return dict(given)


def _check_count(document: Document, axes: Axes, included: Iterable[Axes], *, yes: bool) -> None:
    """Refuse an absurd matrix by arithmetic, before a single cell is made."""
    count = math.prod(map(len, axes.values())) + sum(math.prod(map(len, one.values())) for one in included)
    if count > CELLS_AT_ALL:
        sentence = f"the matrix spans {count} cells, more than {CELLS_AT_ALL}, the most there can be; shorten an axis"
        raise document.error(("axes",), sentence, key=True)
    if count > CELLS_WITHOUT_YES and not yes:
        sentence = f"the matrix spans {count} cells, more than {CELLS_WITHOUT_YES}; shorten an axis, or add --yes"
        raise document.error(("axes",), sentence, key=True)


def _product(axes: Mapping[str, Sequence[Any]]) -> dict[Cell, None]:
    return dict.fromkeys(_cells(axes))


def _cells(axes: Mapping[str, Sequence[Any]]) -> Iterator[Cell]:
    for values in itertools.product(*(axes[axis] for axis in AXES)):
        yield Cell(**dict(zip(AXES, values, strict=True)))


def missing(cell: Cell) -> str | None:
    """Why there is no such cell, where there is none: a mode or a workload that a framework does not have."""
    name, workload = cell.framework.name, cell.workload.name
    framework = frameworks.get(name)
    modes = framework.modes if framework else STUB_MODES
    having = [one.name for one in frameworks.every().values() if cell.mode in one.modes]
    if cell.mode not in modes and len(having) == 1:
        return f"mode {cell.mode} exists for {having[0]} only"
    if framework is None:  # a stub
        return None
    if workload != STUB and find_spec(f"workloads.{workload}.{framework.twins}") is None:
        return f"{name} has no part in {workload}"
    if cell.mode not in modes:
        return f"{name} has mode {' and '.join(modes)} only"
    return _beyond(cell, framework) if cell.phase == "train" else None


def _beyond(cell: Cell, framework: frameworks.Framework) -> str | None:
    """What a framework cannot train."""
    if not framework.zero_learning_rate and not cell.workload.get("learning_rate", 1.0):
        return f"{framework.name} cannot learn at a learning rate of 0"
    single = getattr(spec_of(cell.workload.name), "ONE_EXAMPLE_A_STEP", ())
    if framework.name in single and _size(cell) > 1:
        return f"{framework.name} trains {cell.workload.name} by one example a step only"
    return None


def _size(cell: Cell) -> int:
    """The batch size as run."""
    return spec_of(cell.workload.name).batch_size(cell.workload.mapping, cell.batch_size)


def _excluded(document: Document, axes: Axes, index: int) -> Iterator[Cell]:
    """The cells of the product that an entry of `exclude` covers: at least one."""
    path: Path = ("exclude", index)
    matching = dict(axes)
    for axis, wanted in _pattern(document, document.file.exclude[index], path).items():
        matching[axis] = [value for value in axes[axis] if covers(value, wanted)]
        if not matching[axis]:
            on_axis = ", ".join(str(value) for value in axes[axis][:6])
            sentence = f"exclude matches no cell: {axis} {wanted} is not on its axis ({on_axis}); correct or remove it"
            raise document.error((*path, axis), sentence, key=True)
    return _cells(matching)


def _pattern(document: Document, entry: Entry, path: Path) -> dict[str, Any]:
    """What an entry says, axis by axis; workloads with the parameters that are written there alone."""
    if not entry.model_fields_set:
        raise document.error(path, f"this entry of {path[0]} is empty; name at least one axis, or remove it")
    pattern: dict[str, Any] = {axis: getattr(entry, axis) for axis in AXES if axis in entry.model_fields_set}
    if "workload" in pattern:
        item = cast("Workload", pattern["workload"])
        pattern["workload"] = Named.of(item.name, _given(document, item, (*path, "workload")))
    if "framework" in pattern:
        pattern["framework"] = _framework(cast("Framework", pattern["framework"]))
    return pattern


def _completed(document: Document, axes: Axes, index: int) -> Axes:
    """The axes of an entry of `include`: where it is silent, the first value, or all values of a compared axis."""
    path: Path = ("include", index)
    entry = document.file.include[index]
    pattern = _pattern(document, entry, path)
    if "workload" in pattern:
        pattern["workload"] = _workload(document, entry.workload, (*path, "workload"))
    compared = document.file.compare
    silent = {axis: values if axis in compared else values[:1] for axis, values in axes.items()}
    return {axis: [pattern[axis]] if axis in pattern else silent[axis] for axis in AXES}


def _included(document: Document, entry: Axes, index: int, cells: Mapping[Cell, None]) -> dict[Cell, None]:
    reasons = {cell: missing(cell) for cell in _cells(entry)}
    found = dict.fromkeys(cell for cell, reason in reasons.items() if not reason)
    path: Path = ("include", index)
    if not found:
        reason = next(filter(None, reasons.values()))
        raise document.error((*path, *_at(reason)), f"{reason}; {_instead(reason)}")
    if all(cell in cells for cell in found):
        raise document.error(path, "this entry of include is in the matrix already; correct or remove it")
    return found


def _check_stubs(document: Document, cells: Iterable[Cell]) -> None:
    """A stub is both workload and framework: nothing else implements it, and it implements nothing else."""
    for cell in cells:
        if (cell.workload.name == STUB) != (cell.framework.name == STUB):
            sentence = f"workload {cell.workload.name} does not exist for framework {cell.framework.name}"
            raise document.error(("axes", "framework"), f"{sentence}; a stub is workload and framework at once")


def _no_cells(document: Document, dropped: Mapping[Cell, str]) -> InputError:
    if dropped:
        reason = next(iter(dropped.values()))
        return document.error(("axes", *_at(reason)), f"{reason}, so no cell is left; {_instead(reason)}")
    return document.error(("exclude",), "exclude leaves no cell; remove an entry", key=True)


def _at(reason: str) -> tuple[str]:
    """The axis that the reason is about."""
    return ("mode",) if "mode" in reason else ("framework",)


def _instead(reason: str) -> str:
    """What to do about it."""
    return "choose eager or compiled" if reason.startswith("mode graph") else "choose another framework"


def _as_run(cells: Iterable[Cell]) -> tuple[tuple[Cell, ...], list[str]]:
    """Cells with the batch size that their data allows; those that become equal by it are one."""
    notes: dict[str, None] = {}
    run: dict[Cell, None] = {}
    for cell in cells:
        size = _size(cell)
        if size == cell.batch_size:
            run[cell] = None
            continue
        fewer = size < cell.batch_size
        why = f"has {size} examples" if fewer else f"takes all {size} examples a step by gradient descent"
        notes[f"{cell.workload.name} {why}: batch size {cell.batch_size} is run as {size}"] = None
        run[Cell(**{**{axis: getattr(cell, axis) for axis in AXES}, "batch_size": size})] = None
    return tuple(run), list(notes)
