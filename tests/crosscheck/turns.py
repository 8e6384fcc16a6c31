"""Turns of one step under four tools, in one process and in random order: run by driver.py, inside pytest.

It runs in the environment that the harness measures this framework in, with the tools beside it, and steps the very
Program that a worker opens. A turn is one test, because pytest-benchmark's fixture serves one measurement a test. Each
tool times the same number of steps in one loop after the same settling; its own figure of a step is kept, in seconds.
In the first rounds an empty step takes its turns too: what each tool's own loop costs. Rounds end when every tool's
ratio to the harness is known closely enough, when time is up, or at the last.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import os
import random
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median, stdev
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

JOB = json.loads(Path(os.environ["CROSSCHECK_JOB"]).read_text(encoding="utf-8"))
if JOB["cpus"]:
    os.sched_setaffinity(0, JOB["cpus"])  # before a library starts a thread, as the worker does

from workloads.contract import STUB  # noqa: E402
from workloads.stub.trial import StubTrial  # noqa: E402
from workloads.trial import Trial  # noqa: E402

WALL = JOB["clock"] == "wall"
CLOCK = time.perf_counter if WALL else time.process_time
EMPTY_STEPS = 20_000
QUIET_S = 0.01  # before each turn, as before a slice: what the last one left to do is done
EMPTY_ROUNDS = 12
MIN_ROUNDS = 24
HALF_WIDTH = 0.006  # of a log ratio: a tool that costs nothing of its own then passes at ± 2 % with next to certainty
Advance = Callable[[], Any]
Tool = Callable[[Trial, Advance, int, pytest.FixtureRequest], float]


def harness(trial: Trial, advance: Advance, steps: int, request: pytest.FixtureRequest) -> float:
    """The worker's own verb: a slice, its total ÷ its steps."""
    answer = trial.measure(steps=steps, settle=0, sync="slice")
    return float(answer["step_ns"][0] if WALL else answer["cpu_ns"]) / steps / 1e9


def harness_without_collector(trial: Trial, advance: Advance, steps: int, request: pytest.FixtureRequest) -> float:
    """The same with Python's garbage collector off, as timeit has it."""
    gc.disable()
    try:
        return harness(trial, advance, steps, request)
    finally:
        gc.enable()


def pytest_benchmark(trial: Trial, advance: Advance, steps: int, request: pytest.FixtureRequest) -> float:
    """One round of its pedantic mode; the mean of the round, by the clock of its option --benchmark-timer."""
    benchmark = request.getfixturevalue("benchmark")
    benchmark.pedantic(advance, iterations=steps, rounds=1)
    return float(benchmark.stats.stats.mean)


def pyperf(trial: Trial, advance: Advance, steps: int, request: pytest.FixtureRequest) -> float:
    """What one of its worker processes does, in this process: one value of so many loops."""

    def cpu_time(loops: int) -> float:  # bench_func's own loop, which knows one clock alone
        before = CLOCK()
        for _ in range(loops):
            advance()
        return CLOCK() - before

    runner = _runner()
    runner.args.loops = steps
    measured = (runner.bench_func, advance) if WALL else (runner.bench_time_func, cpu_time)
    return float(measured[0](request.node.name, measured[1]).mean())


@cache
def _runner() -> Any:
    """The one Runner that pyperf allows a process, as its manager would start it."""
    from pyperf import Runner

    runner = Runner(show_name=False)
    runner.parse_args(["--worker", "--loops=1", "--values=1", "--warmups=0", "--quiet"])
    return runner


def torch_benchmark(trial: Trial, advance: Advance, steps: int, request: pytest.FixtureRequest) -> float:
    """torch.utils.benchmark.Timer.timeit; the mean of its one run."""
    from torch.utils.benchmark import Timer

    timer = Timer("advance()", globals={"advance": advance}, num_threads=trial.cell.threads, timer=CLOCK)
    return float(timer.timeit(steps).mean)


TOOLS: dict[str, Tool] = {
    "harness": harness,
    "harness again": harness,
    "harness, collector off": harness_without_collector,
    "pytest-benchmark": pytest_benchmark,
    "pyperf": pyperf,
    "torch.utils.benchmark": torch_benchmark,
}


def turns() -> list[tuple[int, str, bool]]:
    """(round, tool, whether the step is the empty one): all tools in every round, in an order drawn anew."""
    draw = random.Random(JOB["seed"])
    found = []
    for number in range(JOB["rounds"]):
        kinds = (False, True) if number < EMPTY_ROUNDS else (False,)
        both = [(number, tool, empty) for tool in JOB["tools"] for empty in kinds]
        found += draw.sample(both, len(both))
    return found


@pytest.fixture(scope="session")
def real() -> tuple[Trial, int]:
    """The step as a worker opens it, warm, and how many of it last as long as a turn should."""
    kind = StubTrial if JOB["framework"] == STUB else Trial
    trial, _ = kind.open(cell=JOB["cell"], framework=JOB["framework"], seed=JOB["seed"], data=JOB["data"])
    times: list[int] = []
    while sum(times) < JOB["warm_s"] * 1e9:
        times += trial.warm(steps=8)["step_ns"]
    return trial, max(2, round(JOB["turn_s"] * 1e9 / median(times[len(times) // 2 :])))


@pytest.fixture(scope="session")
def empty() -> tuple[Trial, int]:
    """The same trial's loop around nothing."""
    kind = StubTrial if JOB["framework"] == STUB else Trial
    program: Any = SimpleNamespace(step=lambda i: None, fetch=lambda value: np.zeros(1))
    runtime: Any = SimpleNamespace(compilations=lambda: 0, synchronise=lambda: None)
    cell: Any = SimpleNamespace(threads=1)
    return kind(cell, JOB["framework"], 0, None, runtime, runtime, runtime, program), EMPTY_STEPS


@pytest.fixture(scope="session")
def begun() -> tuple[float, dict[str, list[float]]]:
    """When the first turn began, and every tool's times of the real step, a round each."""
    return time.monotonic(), {tool: [] for tool in JOB["tools"]}


def begin_round(began: float, times: dict[str, list[float]]) -> None:
    """Every round begins with the same heap; there is none when the last was enough."""
    gc.collect()
    if time.monotonic() - began > JOB["limit_s"] or _known(times):
        pytest.exit("enough rounds", returncode=0)


def _known(times: dict[str, list[float]]) -> bool:
    """Whether the interval of every log ratio is narrow enough: precision, and not what it says, ends the rounds."""
    known = times["harness"]
    if len(known) < MIN_ROUNDS:
        return False
    ratios = [[math.log(own / base) for own, base in zip(each, known, strict=True)] for each in times.values()]
    return all(2 * stdev(d) / math.sqrt(len(d)) <= HALF_WIDTH for d in ratios)


@pytest.mark.parametrize(("number", "tool", "is_empty"), turns())
def test_turn(number: int, tool: str, is_empty: bool, request: pytest.FixtureRequest) -> None:
    trial, steps = request.getfixturevalue("empty" if is_empty else "real")
    began, times = request.getfixturevalue("begun")
    if min(map(len, times.values())) == max(map(len, times.values())) == number and not is_empty:
        begin_round(began, times)
    advance = map(trial.program.step, itertools.count(trial.position)).__next__
    time.sleep(QUIET_S)
    for _ in range(max(2, steps // 100)):
        advance()
    step_s = TOOLS[tool](trial, advance, steps, request)
    assert step_s > 0
    if not is_empty:
        times[tool].append(step_s)
    row = {"round": number, "tool": tool, "empty": is_empty, "steps": steps, "step_s": step_s}
    with Path(JOB["out"]).open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")
