"""Turns of one step under four tools, in one process and in random order: run by driver.py, inside pytest.

It runs in the environment that the harness measures this framework in, with the tools beside it, and steps the very
Program that a worker opens. A test is a round, in which every tool has one turn: pytest-benchmark's fixture serves one
measurement a test. Each tool times the same number of steps in one loop, after as many that warm up right before; its
own figure of a step is kept, in seconds. Turns are short, so that those of a round see the same machine. Some rounds
step nothing: what each tool's own loop costs. Rounds end when every tool's ratio to the harness is known closely
enough, when time is up, or at the last.
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

from workloads.contract import STUB, Cell  # noqa: E402
from workloads.stub.trial import StubTrial  # noqa: E402
from workloads.trial import Trial  # noqa: E402

WALL = JOB["clock"] == "wall"
CLOCK = time.perf_counter if WALL else time.process_time
EMPTY_STEPS = 20_000
EMPTY_ROUNDS = 12
QUIET_S = 0.001  # before each turn, as before a slice: what the last one left to do is done
COLLECT_EVERY_S = 2.0
MIN_ROUNDS = 24
HALF_WIDTH = 0.006  # of a log ratio: a tool that costs nothing of its own then passes at ± 2 % with next to certainty
Advance = Callable[[], Any]
Tool = Callable[[Trial, Advance, int, Any], float]


def harness(trial: Trial, advance: Advance, steps: int, benchmark: Any) -> float:
    """The worker's own verbs: a slice, its total ÷ its steps."""
    trial.warm(steps=steps)
    answer = trial.measure(steps=steps, settle=0, sync="slice")
    return float(answer["step_ns"][0] if WALL else answer["cpu_ns"]) / steps / 1e9


def harness_without_collector(trial: Trial, advance: Advance, steps: int, benchmark: Any) -> float:
    """The same with Python's garbage collector off, as timeit has it."""
    gc.disable()
    try:
        return harness(trial, advance, steps, benchmark)
    finally:
        gc.enable()


def pytest_benchmark(trial: Trial, advance: Advance, steps: int, benchmark: Any) -> float:
    """One round of its pedantic mode; the mean of the round, by the clock of its option --benchmark-timer."""
    benchmark.pedantic(advance, iterations=steps, rounds=1, warmup_rounds=1)
    return float(benchmark.stats.stats.mean)


def pyperf(trial: Trial, advance: Advance, steps: int, benchmark: Any) -> float:
    """What one of its worker processes does, in this process: one value of so many loops."""

    def cpu_time(loops: int) -> float:  # bench_func's own loop, which knows one clock alone
        before = CLOCK()
        for _ in range(loops):
            advance()
        return CLOCK() - before

    runner, name = _runner(), f"turn {next(_turns)}"
    runner.args.loops = steps
    measured = (runner.bench_func, advance) if WALL else (runner.bench_time_func, cpu_time)
    return float(measured[0](name, measured[1]).mean())


_turns = itertools.count()  # pyperf takes a name once


@cache
def _runner() -> Any:
    """The one Runner that pyperf allows a process, as its manager would start it."""
    from pyperf import Runner

    runner = Runner(show_name=False)
    runner.parse_args(["--worker", "--loops=1", "--values=1", "--warmups=1", "--quiet"])
    return runner


def torch_benchmark(trial: Trial, advance: Advance, steps: int, benchmark: Any) -> float:
    """torch.utils.benchmark.Timer.timeit; the mean of its one run."""
    from torch.utils.benchmark import Timer

    timer = Timer("advance()", globals={"advance": advance}, num_threads=trial.cell.threads, timer=CLOCK)
    for _ in range(steps - max(2, steps // 100)):  # the rest of a warm-up, which is its own
        advance()
    return float(timer.timeit(steps).mean)


TOOLS: dict[str, Tool] = {
    "harness": harness,
    "harness again": harness,
    "harness, collector off": harness_without_collector,
    "pytest-benchmark": pytest_benchmark,
    "pyperf": pyperf,
    "torch.utils.benchmark": torch_benchmark,
}


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
    runtime: Any = SimpleNamespace(compilations=lambda: 0)
    cell = Cell.from_json(JOB["cell"])
    return kind(cell, JOB["framework"], 0, None, runtime, runtime, runtime, program), EMPTY_STEPS


class Rounds:
    """The turns so far, and whether another round is due."""

    def __init__(self) -> None:
        self.began = self.collected = time.monotonic()
        self.times: dict[str, list[float]] = {tool: [] for tool in JOB["tools"]}

    def begin(self) -> None:
        """End the session where the rounds so far are enough; tidy the heap now and then, and never within a round."""
        if time.monotonic() - self.began > JOB["limit_s"] or self.known():
            pytest.exit("enough rounds", returncode=0)
        if time.monotonic() - self.collected > COLLECT_EVERY_S:
            gc.collect()
            self.collected = time.monotonic()

    def known(self) -> bool:
        """Whether the interval of every log ratio is narrow enough: it is precision that ends the rounds."""
        base = self.times["harness"]
        if len(base) < MIN_ROUNDS or len(base) % MIN_ROUNDS:
            return False
        ratios = [
            [math.log(own / other) for own, other in zip(each, base, strict=True)] for each in self.times.values()
        ]
        return all(2 * stdev(d) / math.sqrt(len(d)) <= HALF_WIDTH for d in ratios)

    def add(self, number: int, tool: str, *, empty: bool, steps: int, step_s: float) -> None:
        """Keep one turn."""
        if not empty:
            self.times[tool].append(step_s)
        row = {"round": number, "tool": tool, "empty": empty, "steps": steps, "step_s": step_s}
        with Path(JOB["out"]).open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")


@pytest.fixture(scope="session")
def rounds() -> Rounds:
    return Rounds()


@pytest.mark.parametrize("number", range(min(EMPTY_ROUNDS, JOB["rounds"])))
def test_round_of_an_empty_step(number: int, empty: tuple[Trial, int], rounds: Rounds, benchmark: Any) -> None:
    take_turns(number, *empty, rounds, benchmark, is_empty=True)


@pytest.mark.parametrize("number", range(JOB["rounds"]))
def test_round(number: int, real: tuple[Trial, int], rounds: Rounds, benchmark: Any) -> None:
    rounds.begin()
    take_turns(number, *real, rounds, benchmark, is_empty=False)


def take_turns(number: int, trial: Trial, steps: int, rounds: Rounds, benchmark: Any, *, is_empty: bool) -> None:
    """One turn of every tool, in an order drawn anew."""
    draw = random.Random(f"{JOB['seed']}/{number}/{is_empty}")
    advance = map(trial.program.step, itertools.count()).__next__
    for tool in draw.sample(JOB["tools"], len(JOB["tools"])):
        time.sleep(QUIET_S)
        step_s = TOOLS[tool](trial, advance, steps, benchmark)
        assert step_s > 0
        rounds.add(number, tool, empty=is_empty, steps=steps, step_s=step_s)
