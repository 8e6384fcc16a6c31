"""`bench parity`: the certificate alone, for every workload and phase, without a measurement."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from bench import certification, data, environment, run
from bench.comparison import Arm, Comparison
from bench.errors import InputError
from bench.launch import Need
from bench.launch.provide import provide
from bench.lockstep import Bench
from bench.matrix_model import known_workloads, spec_of
from bench.provenance import Place
from workloads.contract import FRAMEWORKS, PHASES, Cell, Named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.console import View

BATCH_SIZE = 16  # proves as much as a larger one, in less time


def prove(workloads: Sequence[str], *, launcher: str, view: View, phases: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One record a workload and phase: status, reason, checks; all of them where none is named.

    raises  InputError: no such workload
    """
    known = known_workloads()
    for name in workloads:
        if name not in known:
            raise InputError(f'workload "{name}" is unknown; choose {" or ".join(known)}')
    comparisons = [_comparison(name, phase) for name in workloads or known for phase in phases or PHASES]
    with ExitStack() as stack:
        run_id = f"parity-{run.fresh_id()}"
        cache = stack.enter_context(run.compile_cache(run_id))
        needed = any(certification.needs_data(one) for one in comparisons)
        folder = data.require(view.say).folder if needed else None
        place = Place(run_id=run_id, cache=cache, data=folder, base=None)
        chosen, _ = provide(launcher, [Need(Named(name)) for name in FRAMEWORKS], place, view)
        stack.callback(chosen.close)
        arm_cpus, control_cpus = environment.cpusets(1)
        every = arm_cpus | control_cpus  # nothing is timed: the arms need not share one
        bench = Bench(launcher=chosen, sampler=None, arm_cpus=every, seed=0, data=folder)
        view.plan([one.id for one in comparisons], blocks=0, deadline=float("inf"))
        return [
            _record(one, certification.certify(bench, one, cache=cache, control_cpus=every, view=view))
            for one in comparisons
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
            table.add_row(record["comparison"], "", "", "", "", "", f"[red]✗ {record['reason']}[/]")
    Console().print(table)


def _comparison(workload: str, phase: str) -> Comparison:
    """TensorFlow against PyTorch, eager, at the workload's defaults."""
    spec = spec_of(workload)
    parameters = spec.parameters({})
    cell = Cell(
        workload=Named.of(workload, parameters),
        framework=Named(FRAMEWORKS[0]),
        phase=phase,
        batch_size=spec.batch_size(parameters, BATCH_SIZE),
        device="cpu",
    )
    arms = tuple(Arm(id=name, cell=_with(cell, name)) for name in FRAMEWORKS)
    return Comparison(id=f"{workload}-{phase}", compare=("framework",), arms=arms, baseline=FRAMEWORKS[0])


def _with(cell: Cell, framework: str) -> Cell:
    return Cell.from_json({**cell.to_json(), "framework": {"name": framework}})


def _record(comparison: Comparison, prologue: certification.Prologue) -> dict[str, Any]:
    """The one contrast's certificate; a worker that crashed leaves a failed one."""
    if prologue.failed:
        return {"comparison": comparison.id, "status": "failed", "reason": str(prologue.failed.failure),
                "max_rel_error": None, "checks": []}  # fmt: skip
    (certificate,) = prologue.certificates.values()
    return {"comparison": comparison.id, **certificate.to_json()}
