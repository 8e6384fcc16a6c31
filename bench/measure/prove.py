"""`bench parity`: the certificate alone, for every workload, phase and mode, without a measurement."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bench import frameworks
from bench.errors import InputError
from bench.launch import Place
from bench.launch import cache as compile_caches
from bench.launch.provide import provide
from bench.matrix.cells import missing
from bench.matrix.comparison import Arm, Comparison
from bench.matrix.model import known_workloads, spec_of
from bench.matrix.need import Need
from bench.measure import certify, provenance
from bench.measure.lockstep import Bench
from bench.provision import mnist
from bench.text import quoted
from workloads.contract import PHASES, Cell, Named, Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console

    from bench.measure.prologue import Prologue
    from bench.measure.view import View

BATCH_SIZE = 16  # proves as much as a larger one, in less time
EXAMPLE = "'transformer_lm: {width: 128}'"

Record = dict[str, Any]


def prove(
    workloads: Sequence[Named],
    *,
    launcher: str,
    view: View,
    phases: Sequence[str] = (),
    modes: Sequence[str] = (),
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
) -> list[Record]:
    """One record a contrast: what it is of, seconds, then its certificate; of all workloads where none is named.

    workloads  with all their parameters, as `workload` gives them
    modes      those of every framework that has them; eager where none is named

    raises  InputError: fewer than two arms in every comparison
            EnvironmentUnavailable: what it takes cannot be had
    """
    chosen = workloads or [workload(name) for name in known_workloads()]
    phases, modes = phases or PHASES, modes or ("eager",)
    comparisons = [one for named in chosen for one in _comparisons(named, phases, modes, batch_size)]
    if not comparisons:
        which = f"{' and '.join(phases)} in mode {' or '.join(modes)}"
        raise InputError(f"nothing to compare for {which}: one framework alone has it; name further modes")
    with ExitStack() as stack:
        run_id = f"parity-{provenance.fresh_id()}"
        cache = stack.enter_context(compile_caches.compile_cache(run_id))
        reads = any(one.needs_data for one in comparisons)
        folder = mnist.require(view.say).folder if reads else None
        place = Place(run_id=run_id, cache=cache, data=folder, base=None)
        needed = dict.fromkeys(Need.of(arm.cell) for one in comparisons for arm in one.arms)
        provided, _ = provide(launcher, list(needed), place, view.say)
        stack.callback(provided.close)
        every = frozenset(os.sched_getaffinity(0))  # nothing is timed: the arms need not share one
        bench = Bench(launcher=provided, sampler=None, arm_cpus={1: every}, seed=seed, data=folder)
        view.plan([one.id for one in comparisons], blocks=0, deadline=float("inf"))
        records: list[Record] = []
        for one in comparisons:
            began = time.monotonic()
            prologue = certify.certify(bench, one, cache=cache, control_cpus=every, view=view)
            records += _records(one, prologue, time.monotonic() - began)
        return records


def workload(text: str) -> Named:
    """A workload with all its parameters, from its name, `NAME: {parameter: value}`, or as a matrix has it.

    raises  InputError: it is unknown, or a parameter of it is, or out of bounds
    """
    name, given = _read(text)
    known = known_workloads()
    if name not in known:
        raise InputError(f'workload "{name}" is unknown; choose {" or ".join(known)}')
    spec = spec_of(name)
    for key in given:
        if key not in spec.PARAMETERS:
            raise InputError(f"{name} parameter {quoted(key)} is unknown; it has {', '.join(spec.PARAMETERS)}")
    try:
        return Named.of(name, spec.parameters(given))
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None


def _read(text: str) -> tuple[str, dict[str, Value]]:
    try:
        plain = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        plain = None
    if isinstance(plain, str):
        return plain, {}
    if isinstance(plain, dict) and isinstance(plain.get("name"), str):
        return plain.pop("name"), plain
    if isinstance(plain, dict) and len(plain) == 1:
        ((name, given),) = plain.items()
        if isinstance(name, str) and isinstance(given, dict | None):
            return name, given or {}
    raise InputError(f"workload {quoted(text)} is neither a name nor a name with parameters; write {EXAMPLE}")


def passed(records: Sequence[Record]) -> bool:
    """Whether every contrast that can be had is proved, and one at least is."""
    by_status = {record["status"] for record in records}
    return "passed" in by_status and by_status <= {"passed", "unsupported"}


def as_json(records: Sequence[Record]) -> str:
    """The records as they are."""
    return json.dumps(records, indent=2, allow_nan=False)


def print_table(records: Sequence[Record], console: Console) -> None:
    """A line a comparison, with horizon and seconds, and below it one an arm, with its largest float64 error."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("workload, then each mode", overflow="fold")
    for column in ("largest error", "horizon", "seconds"):
        table.add_column(column, justify="right", overflow="fold")
    table.add_column("", no_wrap=True)
    for _, group in groupby(records, key=lambda record: record["comparison"]):
        own = list(group)
        first = own[0]
        horizon = _horizon(next((one["horizon"] for one in own if one["horizon"]), None))
        title = f"{first['workload']} {first['phase']}"
        if not first["arm"].endswith(first["mode"]):  # one mode alone, which no arm's name says
            title += f" {first['mode']}"
        table.add_row(escape(title), "", horizon, f"{first['seconds']:.0f}", "")
        for arm in dict.fromkeys(name for one in own for name in (one["baseline"], one["arm"])):
            told = next((one for one in own if one["arm"] == arm), None)
            told = told or next((one for one in own if one["checks"]), first)
            table.add_row(f"  {arm}", _largest(told["checks"], arm), "", "", _mark(told, arm))
    console.print(table)
    for record in records:
        if record["reason"]:
            console.print(f"[red]✗[/] {escape(record['comparison'])}: {escape(record['reason'])}")


def print_checks(records: Sequence[Record], console: Console) -> None:
    """Every check with its error and its bound."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("comparison", "check", "arm", "at", "error", "limit", ""):
        table.add_column(column, justify="right" if column in ("error", "limit") else "left")
    for record in records:
        for check in record["checks"]:
            error = "—" if check["value"] is None else f"{check['value']:.1e}"
            mark = "[green]✓ passed[/]" if check["passed"] else "[red]✗ failed[/]"
            table.add_row(
                record["comparison"], check["name"], check["arm"], check["place"], error, f"{check['limit']:.1e}", mark
            )
        if record["reason"]:
            table.add_row(record["comparison"], "", "", "", "", "", f"[red]✗ {escape(record['reason'])}[/]")
    console.print(table)


def _largest(checks: Sequence[Mapping[str, Any]], arm: str) -> str:
    """Of an arm's float64 checks: the largest error; of one that failed, the first."""
    own = [check for check in checks if check["arm"] == arm and check["name"].startswith("float64")]
    wrong = [check for check in own if not check["passed"]]
    values = [check["value"] for check in (wrong[:1] or own)]
    known = [float(value) for value in values if value is not None]
    return f"{max(known):.1e}" if known else "—"


def _horizon(found: Mapping[str, Any] | None) -> str:
    """How many steps were held, and of updates at which rate: "1 step, 21 at 1/1000"."""
    if found is None:
        return "—"
    text = f"{found['steps']} step{'s' if found['steps'] > 1 else ''}"
    updates = found["updates"]
    return f"{text}, {updates['steps']} at 1/{1 / updates['rate']:.0f}" if updates else text


def _mark(record: Record, arm: str) -> str:
    if record["by"] == arm:
        return f"[yellow]– {record['status']}[/]"
    wrong = any(check["arm"] == arm and not check["passed"] for check in record["checks"])
    if wrong:
        return "[red]✗ failed[/]"
    return "[green]✓ passed[/]" if record["checks"] else "[yellow]– not proved[/]"


def _comparisons(named: Named, phases: Sequence[str], modes: Sequence[str], batch_size: int) -> Iterator[Comparison]:
    """All frameworks that have a part in it, in these modes; and by gradient descent, where nobody chose.

    scikit-learn, where it learns from single examples only, has a comparison of its own.
    """
    title = _title(named)
    for phase in phases:
        yield from _possible(f"{title}-{phase}", _cell(named, phase, batch_size), modes)
    if named.get("optimizer") == spec_of(named.name).parameters({}).get("optimizer", "none") and "train" in phases:
        descent = Named.of(named.name, named.mapping | {"optimizer": "gradient_descent"})
        yield from _possible(f"{title}-train-gradient_descent", _cell(descent, "train", batch_size), modes)


def _title(named: Named) -> str:
    """The name, and what is not the default: "transformer_lm(width=128)"."""
    defaults = spec_of(named.name).parameters({})
    return str(Named.of(named.name, {k: v for k, v in named.mapping.items() if defaults.get(k) != v}))


def _possible(name: str, cell: Cell, modes: Sequence[str]) -> Iterator[Comparison]:
    arms = [_arm(cell, framework, mode, modes) for framework in frameworks.every() for mode in modes]
    present = tuple(arm for arm in arms if not missing(arm.cell))
    if len(present) > 1:
        yield Comparison(id=name, compare=_axes(modes), arms=present, baseline=present[0].id)
    single = replace(cell, batch_size=1)
    alone = [arm for arm in arms if arm not in present and not missing(_moved(single, arm))]
    if alone and present:
        own = tuple(Arm(id=arm.id, cell=_moved(single, arm)) for arm in (present[0], *alone))
        yield Comparison(id=f"{name}-b1", compare=_axes(modes), arms=own, baseline=present[0].id)


def _axes(modes: Sequence[str]) -> tuple[str, ...]:
    return ("framework", "mode") if len(modes) > 1 else ("framework",)


def _arm(cell: Cell, framework: str, mode: str, modes: Sequence[str]) -> Arm:
    name = f"{framework}-{mode}" if len(modes) > 1 else framework
    return Arm(id=name, cell=replace(cell, framework=Named(framework), mode=mode))


def _moved(cell: Cell, arm: Arm) -> Cell:
    return replace(cell, framework=arm.cell.framework, mode=arm.cell.mode)


def _cell(named: Named, phase: str, asked: int) -> Cell:
    size = spec_of(named.name).batch_size(named.mapping, asked)
    return Cell(workload=named, framework=Named(frameworks.defaults()[0]), phase=phase, batch_size=size, device="cpu")


def _records(comparison: Comparison, prologue: Prologue, seconds: float) -> Iterator[Record]:
    """The certificate of every contrast, or why it has none."""
    cell = comparison.baseline_arm.cell
    shared = {
        "comparison": comparison.id,
        "workload": _title(cell.workload),
        "phase": cell.phase,
        "baseline": comparison.baseline,
        "seconds": round(seconds, 1),
    }
    for _, arm in comparison.contrasts:
        yield shared | {"arm": arm.id, "mode": arm.cell.mode} | prologue.certificates[arm.id].to_json()
