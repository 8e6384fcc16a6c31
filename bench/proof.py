"""`bench parity`: the certificate alone, for every workload and phase, without a measurement."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench import certification, data, run
from bench.comparison import Arm, Comparison
from bench.errors import InputError
from bench.launch import Need
from bench.launch.provide import provide
from bench.lockstep import Bench
from bench.matrix_cells import missing
from bench.matrix_model import known_workloads, spec_of
from bench.provenance import Place
from workloads.contract import FRAMEWORKS, KNOWN_FRAMEWORKS, PHASES, Cell, Named, Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.console import View

BATCH_SIZE = 16  # proves as much as a larger one, in less time


def prove(workloads: Sequence[str], *, launcher: str, view: View, phases: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One record a contrast: comparison, arm, status, reason, checks; of all workloads where none is named.

    raises  InputError: no such workload
    """
    known = known_workloads()
    for name in workloads:
        if name not in known:
            raise InputError(f'workload "{name}" is unknown; choose {" or ".join(known)}')
    comparisons = [one for name in workloads or known for one in _comparisons(name, phases or PHASES)]
    with ExitStack() as stack:
        run_id = f"parity-{run.fresh_id()}"
        cache = stack.enter_context(run.compile_cache(run_id))
        reads = any(certification.needs_data(one) for one in comparisons)
        folder = data.require(view.say).folder if reads else None
        place = Place(run_id=run_id, cache=cache, data=folder, base=None)
        needed = dict.fromkeys(Need.of(arm.cell) for one in comparisons for arm in one.arms)
        chosen, _ = provide(launcher, list(needed), place, view)
        stack.callback(chosen.close)
        every = frozenset(os.sched_getaffinity(0))  # nothing is timed: the arms need not share one
        bench = Bench(launcher=chosen, sampler=None, arm_cpus={1: every}, seed=0, data=folder)
        view.plan([one.id for one in comparisons], blocks=0, deadline=float("inf"))
        return [
            record
            for one in comparisons
            for record in _records(one, certification.certify(bench, one, cache=cache, control_cpus=every, view=view))
        ]


def as_json(records: Sequence[dict[str, Any]]) -> str:
    """The records as they are."""
    return json.dumps(records, indent=2, allow_nan=False)


def print_table(records: Sequence[dict[str, Any]]) -> None:
    """Every check with its error and its bound."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("comparison", "check", "arm", "largest at", "error", "limit", ""):
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
    Console().print(table)


def _comparisons(workload: str, phases: Sequence[str]) -> Iterator[Comparison]:
    """All frameworks that have a part in it, eager, at the defaults; and by gradient descent, where that may be chosen.

    scikit-learn, where it learns from single examples only, has a comparison of its own.
    """
    defaults = spec_of(workload).parameters({})
    for phase in phases:
        yield from _possible(f"{workload}-{phase}", _cell(workload, defaults, phase, BATCH_SIZE))
    if "optimizer" in defaults and "train" in phases:
        descent = spec_of(workload).parameters({"optimizer": "gradient_descent"})
        yield from _possible(f"{workload}-train-gradient_descent", _cell(workload, descent, "train", BATCH_SIZE))


def _possible(name: str, cell: Cell) -> Iterator[Comparison]:
    arms = [Arm(id=framework, cell=_with(cell, framework)) for framework in KNOWN_FRAMEWORKS]
    present = tuple(arm for arm in arms if not missing(arm.cell))
    yield Comparison(id=name, compare=("framework",), arms=present, baseline=FRAMEWORKS[0])
    single = replace(cell, batch_size=1)
    alone = [arm for arm in arms if arm not in present and not missing(_with(single, arm.id))]
    if alone:
        own = tuple(Arm(id=arm.id, cell=_with(single, arm.id)) for arm in (arms[0], *alone))
        yield Comparison(id=f"{name}-b1", compare=("framework",), arms=own, baseline=FRAMEWORKS[0])


def _cell(workload: str, parameters: dict[str, Value], phase: str, asked: int) -> Cell:
    size = spec_of(workload).batch_size(parameters, asked)
    named = Named.of(workload, parameters)
    return Cell(workload=named, framework=Named(FRAMEWORKS[0]), phase=phase, batch_size=size, device="cpu")


def _with(cell: Cell, framework: str) -> Cell:
    return replace(cell, framework=Named(framework))


def _records(comparison: Comparison, prologue: certification.Prologue) -> Iterator[dict[str, Any]]:
    """The certificate of every contrast, or why it has none."""
    for _, arm in comparison.contrasts:
        yield {"comparison": comparison.id, "arm": arm.id} | prologue.certificates[arm.id].to_json()
