"""`nox -s crosscheck`: the same step under the harness, pytest-benchmark, pyperf and torch.utils.benchmark.

    python tests/crosscheck/driver.py --tools FOLDER [--step NAME …] [--rounds N] [--limit-s S] [--clock wall|cpu]

Exit code 0 when every tool agrees with the harness within 2 % on every step, else 1; the report says why.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agreement import CONTROLS, STATISTICS, Row, rows
from rich.console import Console
from rich.table import Table

from bench.launch import worker_environment
from bench.launch.local import INHERITED
from bench.machine import cpus
from bench.paths import cache_root, staged_worker_root
from bench.provision import mnist
from bench.provision.venv import environment
from workloads.contract import STUB, Cell, Named
from workloads.linear_regression import spec as linear_regression
from workloads.mnist_cnn import spec as mnist_cnn
from workloads.stub import spec as stub

SCHEMA = "bench.crosscheck/1"
MOST_ROUNDS = 2000
STEP_LIMIT_S = 150.0
WARM_S = 2.0
TURN_S = 0.01
SEED = 0
CLOCKS = {"wall": "time.perf_counter", "cpu": "time.process_time"}
PROCESS_LIMIT_S = 1800


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is stepped, and the framework whose environment it runs in: torch's tool needs torch, a stub nothing."""

    cell: Cell
    environment: str
    needs_data: bool = False

    @property
    def name(self) -> str:
        """As in the report."""
        cell = self.cell
        where = "" if cell.framework.name == STUB else f" {cell.framework.name} {cell.phase} {cell.mode}"
        return f"{cell.workload.name}{where}"

    @property
    def tools(self) -> list[str]:
        """The tools that can time it, and the harness with its controls."""
        torch = self.environment == "pytorch"
        return ["harness", *(tool for tool in STATISTICS if torch or not tool.startswith("torch"))]


def steps() -> list[Step]:
    """The stub, and both workloads in both frameworks: a training step in eager mode at batch 64, one thread."""

    def cell(workload: str, parameters: Any, framework: str) -> Cell:
        return Cell(workload=Named.of(workload, parameters), framework=Named(framework), device="cpu")

    linear, cnn = linear_regression.parameters({}), mnist_cnn.parameters({})
    return [
        Step(cell=cell(STUB, stub.parameters({}), STUB), environment="pytorch"),
        *(Step(cell=cell("linear_regression", linear, name), environment=name) for name in ("pytorch", "tensorflow")),
        *(
            Step(cell=cell("mnist_cnn", cnn, name), environment=name, needs_data=True)
            for name in ("pytorch", "tensorflow")
        ),
    ]


def main(arguments: Sequence[str]) -> int:
    """Measure the steps asked for, print the report."""
    known = {step.name: step for step in steps()}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", type=Path, required=True, help="a folder with pytest-benchmark and pyperf")
    parser.add_argument("--step", action="append", choices=known, help="by default all of them")
    parser.add_argument("--rounds", type=int, default=MOST_ROUNDS, help="at most")
    parser.add_argument("--limit-s", type=float, default=STEP_LIMIT_S, help="of a step: more where it stays undecided")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of the process, for a busy machine")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    asked = parser.parse_args(arguments)
    found: list[Row] = []
    for name in asked.step or known:
        print(f"crosscheck: {name}, up to {asked.rounds} rounds", file=sys.stderr, flush=True)
        limits = {"rounds": asked.rounds, "limit_s": asked.limit_s}
        samples = measure(known[name], tools=asked.tools, limits=limits, seed=asked.seed, clock=asked.clock)
        found += rows(name, samples, clock=asked.clock)
    checked = [row for row in found if row.tool not in CONTROLS]
    if asked.format == "json":
        controls = [row.to_json() for row in found if row.tool in CONTROLS]
        print(
            json.dumps(
                {"schema": SCHEMA, "rows": [row.to_json() for row in checked], "controls": controls},
                indent=1,
                ensure_ascii=False,
            )
        )
    else:
        show(found)
    return 0 if all(row.passed for row in checked) else 1


def measure(step: Step, *, tools: Path, limits: dict[str, float], seed: int, clock: str) -> list[dict[str, Any]]:
    """All turns of one step, in one process of the framework's own environment."""
    found = environment(framework=step.environment, progress=lambda line: print(line, file=sys.stderr))
    plan = {
        "cell": step.cell.to_json(),
        "framework": step.cell.framework.name,
        "seed": seed,
        "data": str(mnist.require().folder) if step.needs_data else None,
        "cpus": sorted(cpus.choose([step.cell.threads]).arms[step.cell.threads]),
        "tools": step.tools,
        "clock": clock,
        "warm_s": WARM_S,
        "turn_s": TURN_S,
        **limits,
    }
    return take_turns(found.python, tools=tools, plan=plan)


def take_turns(python: Path, *, tools: Path, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """turns.py under pytest, which sees this folder alone: no configuration of the project, no other conftest.

    returns  a sample a turn: round, tool, empty, steps, step_s
    """
    here = Path(__file__).resolve().parent
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    env = worker_environment(root=str(staged_worker_root()), cache=str(cache_root()), padding=0, inherited=inherited)
    env["PYTHONPATH"] += f"{os.pathsep}{tools.resolve()}"
    lonely = [f"--rootdir={here}", f"--confcutdir={here}", f"-c{os.devnull}", "-pno:cacheprovider"]
    command = [str(python), "-m", "pytest", str(here / "turns.py"), *lonely, "-q", "-x"]
    command.append(f"--benchmark-timer={CLOCKS[plan['clock']]}")
    with tempfile.TemporaryDirectory() as folder:
        out, job = Path(folder, "samples.jsonl"), Path(folder, "job.json")
        job.write_text(json.dumps({**plan, "out": str(out)}), encoding="utf-8")
        env["CROSSCHECK_JOB"] = str(job)
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=PROCESS_LIMIT_S, check=False, cwd=folder
        )
        if done.returncode:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
        return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def show(found: Sequence[Row]) -> None:
    """A table, then what each tool's figure is and why any disagrees."""
    table = Table("step", "tool", "µs a step", "tool ÷ harness", "95 %", "n", "own cost", "", title="crosscheck")
    for row in found:
        ratio = f"{row.ratio:.4f}" if row.ratio is not None else "–"
        interval = f"{row.ci[0]:.4f} to {row.ci[1]:.4f}" if row.ci else "–"
        verdict = row.verdict if row.passed or row.tool not in CONTROLS else "control"
        cost = f"{row.own_cost_ns:+.0f} ns"
        table.add_row(row.step, row.tool, f"{row.step_us:.1f}", ratio, interval, str(row.n), cost, verdict)
    console = Console(width=150 if not sys.stdout.isatty() else None)
    console.print(table)
    console.print(f"goal: {found[0].goal}, n rounds in one process; own cost: of the tool's loop, less the harness's")
    for tool in dict.fromkeys(row.tool for row in found):
        console.print(f"{tool}: {STATISTICS[tool]}", highlight=False)
    for row in found:
        if row.reason:
            console.print(f"{row.step}, {row.tool}: {row.reason}", highlight=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
