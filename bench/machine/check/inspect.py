"""`bench check`: what about this machine would spoil a measurement, how badly, and the cure of each.

A finding fails only where a measurement would not be worth believing: a CPU quota, arms' CPUs that others use, stolen
time, a draining battery, a governor that saves power, too little memory or disk, a worker of another run. What only
widens intervals is a warning: the lockstep inside a block bears it, at the price of more blocks.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from bench.errors import GateError
from bench.machine import cpus
from bench.machine.check import gpu as gpus
from bench.machine.check import limits, probes, window
from bench.machine.check.findings import WORST_FIRST, Finding, Machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

PROBES = (
    probes.governor,
    probes.turbo,
    probes.smt,
    probes.cores,
    probes.isolated,
    probes.numa,
    limits.quota,
    probes.other_runs,
    limits.memory,
    limits.swap,
    limits.disk,
    probes.clocksource,
    probes.timer,
    probes.aslr,
    probes.huge_pages,
    probes.battery,
    probes.virtual_machine,
    probes.mitigations,
    probes.docker,
)
_MARKS = {"fail": "✗", "warn": "!", "unknown": "?", "note": "·", "ok": "✓"}
_STYLES = {"fail": "bold red", "warn": "yellow", "unknown": "magenta", "note": "cyan", "ok": "green"}


def inspect(*, threads: int = 1, root: Path = Path("/"), seconds: float = 1.0, gpu: bool = True) -> tuple[Finding, ...]:
    """Every finding about this machine, the arms' CPUs chosen as a run chooses them.

    threads  of an arm
    seconds  to see what else runs: once to choose, and once more to tell who it is
    root     where proc and sys are found; another folder in tests
    gpu      whether GPUs will be measured
    raises   InputError: fewer than `threads` CPUs may be used
    """
    placement = cpus.choose([threads], look_s=seconds, root=root)
    machine = Machine(root=root, arms=placement.arms[threads], control=placement.control, idle=placement.idle)
    seen = window.watch(machine, seconds)
    return (
        *window.findings(machine, seen),
        *(probe(machine) for probe in PROBES),
        *(gpus.findings(root) if gpu else ()),
    )


def gate(findings: Sequence[Finding]) -> None:
    """Raises GateError, which names every finding that fails."""
    failing = "; ".join(f"{one.name}: {one.found}" for one in findings if one.level == "fail")
    if failing:
        raise GateError(f"this machine would spoil a measurement ({failing}); bench check tells the cure of each")


def as_json(findings: Sequence[Finding]) -> str:
    """The findings as they are, in the order of the probes."""
    return json.dumps([asdict(one) for one in findings], indent=2, ensure_ascii=False)


def print_table(findings: Sequence[Finding], console: Console) -> None:
    """Worst first, each with what it does and its cure; a command stands on a line of its own, to be pasted."""
    counts = Counter(one.level for one in findings)
    for finding in sorted(findings, key=lambda one: WORST_FIRST.index(one.level)):
        if finding.level != "ok":
            _print_one(finding, console)
    fine = ", ".join(one.name for one in findings if one.level == "ok")
    console.print(_row("ok", "", Text(fine, style="dim")))
    console.print(Text("\n" + ", ".join(f"{counts[level]} {level}" for level in WORST_FIRST), style="bold"))


def _print_one(finding: Finding, console: Console) -> None:
    words = [Text(finding.found, style="bold"), Text(finding.why, style="dim")]
    command = finding.cure if finding.cure and not finding.cure.endswith(".") else None
    if finding.cure and not command:
        words.append(Text(finding.cure))
    console.print(_row(finding.level, finding.name, Text("\n").join(words)))
    if command:
        # Never wrapped: a command of two lines cannot be pasted.
        console.print(Text(f"  {command}", style="cyan"), soft_wrap=True, highlight=False)


def _row(level: str, name: str, text: Text) -> Table:
    row = Table.grid(padding=(0, 1), expand=False)
    row.add_column(width=9, no_wrap=True)
    row.add_column(width=16, no_wrap=True)
    row.add_column(overflow="fold")
    row.add_row(Text(f"{_MARKS[level]} {level}", style=_STYLES[level]), name, text)
    return row
