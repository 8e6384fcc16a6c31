"""What the harness itself costs: on an empty step, step by step against a bare loop, and the sampler on and off."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from bench import stats
from bench.launch.group import Group
from bench.launch.local import LocalLauncher
from bench.machine import cpus
from bench.matrix.comparison import Arm
from bench.matrix.need import Need
from bench.measure.lockstep import Bench, ask, start
from bench.telemetry import Sampler
from bench.validate.row import CALMER, Row, outcome
from workloads.contract import STUB, Cell, Named
from workloads.stub.trial import Program, Runtime, StubTrial

MOST_NS = 2000.0
EQUAL = 0.005
PAIRS, GROUP = 2400, 40  # the median of a group is one value: an interrupt of 10 ms in a step of 1 ms is none
STEP_BYTES = 1_400_000  # some 1 ms
_EMPTY_STEPS, _EMPTY_REPEATS = 2000, 60
_SAMPLED_BLOCKS, _SAMPLED_ROUNDS, _SAMPLED_STEPS = 10, 20, 150


def rows(*, seed: int, hz: float = 10.0) -> Iterator[Row]:
    """The observer's two figures, then the sampler's, on the arms' processor."""
    placement = cpus.choose([1])
    with cpus.confined(placement.arms[1]):
        yield _empty_step("step")
        yield _empty_step("slice")
        yield _against_bare(seed)
    with cpus.confined(placement.control):
        yield _sampler(seed, placement, hz)


def _empty_step(sync: str) -> Row:
    """The worker's own loop over a step that does nothing, less a bare loop over the same step, in ns a step."""
    trial = _trial(STEP_BYTES)
    trial.program = _Empty()  # type: ignore[assignment]
    ours: Callable[[int], Any] = trial._steps if sync == "step" else trial._slice
    costs = []
    for _ in range(_EMPTY_REPEATS):
        harness_ns = _timed(lambda: ours(_EMPTY_STEPS))
        bare_ns = _timed(lambda: _bare_loop(trial.program.step, _EMPTY_STEPS))
        costs.append((harness_ns - bare_ns) / _EMPTY_STEPS)
    figure = stats.cell_figure(costs)
    assert figure is not None
    holds = figure.ci is not None and figure.ci[1] <= MOST_NS
    found = outcome(holds, figure.ci, high=MOST_NS)
    detail = f"median of {_EMPTY_REPEATS} loops of {_EMPTY_STEPS} steps, a bare loop's time taken off"
    return Row(
        name=f"observer: cost of the loop on an empty step, sync {sync}",
        n=_EMPTY_REPEATS,
        value=figure.median,
        ci=figure.ci,
        goal="≤ 2000 ns a step",
        outcome=found,
        unit="ns",
        detail=f"{detail}; {CALMER}" if found == "undecided" else detail,
    )


def _against_bare(seed: int) -> Row:
    """The time that the harness gives for a step, against a bare pair of clock readings around it, turn by turn."""
    trial = _trial(STEP_BYTES)
    generator = random.Random(seed)  # noqa: S311 - replayable on purpose
    trial._steps(50)
    log_ratios = []
    for number in range(PAIRS):
        if generator.random() < 0.5:
            harness_ns, bare_ns = trial._steps(1)[0], _bare_step(trial, number)
        else:
            bare_ns, harness_ns = _bare_step(trial, number), trial._steps(1)[0]
        log_ratios.append(math.log(bare_ns / harness_ns))
    groups = [statistics.median(log_ratios[start : start + GROUP]) for start in range(0, PAIRS, GROUP)]
    detail = f"medians of {GROUP} pairs, harness and bare in random order in one process; n is of medians"
    return equivalence("observer: a step in the harness against a bare one", groups, detail)


def _sampler(seed: int, placement: cpus.Placement, hz: float) -> Row:
    """One worker a block; its slices with the sampler watching it and without, in turn. One value a block."""
    with TemporaryDirectory(prefix="bench-validate-") as folder:
        launcher = LocalLauncher(cache=Path(folder))
        cell = Cell(workload=Named.of(STUB, {"bytes": STEP_BYTES}), framework=Named(STUB), device="cpu")
        launcher.provide([Need.of(cell)], _silent)
        with Sampler(Path(folder), hz, placement.control) as sampler:
            bench = Bench(launcher=launcher, sampler=None, arm_cpus=placement.arms, seed=seed, data=None)
            arm = Arm(id="stub", cell=cell)
            log_ratios = [_sampled_block(bench, sampler, arm, f"{seed}/{block}") for block in range(_SAMPLED_BLOCKS)]
    name = f"sampler on against off, {hz:g} Hz"
    return equivalence(name, log_ratios, f"{_SAMPLED_ROUNDS} pairs of slices of some 0.15 s a block, in turn")


def _sampled_block(bench: Bench, sampler: Sampler, arm: Arm, key: str) -> float:
    generator = random.Random(key)  # noqa: S311 - replayable on purpose
    found = []
    with Group() as group:
        start(bench, group, arm, 0, {})
        channel = group.channel(arm.id)
        ask(group, arm.id, "warm", limit_s=60.0, steps=20)
        for _ in range(_SAMPLED_ROUNDS):
            times = {}
            for on in (True, False) if generator.random() < 0.5 else (False, True):
                if on:
                    sampler.watch(arm.id, channel.pid, channel.scope)
                answer = ask(group, arm.id, "measure", limit_s=60.0, steps=_SAMPLED_STEPS, settle=2, sync="slice")
                times[on] = answer["step_ns"][0]
                if on:
                    sampler.unwatch(arm.id)
            found.append(math.log(times[False] / times[True]))
        ask(group, arm.id, "close", limit_s=30.0)
    return statistics.fmean(found)


def equivalence(name: str, log_ratios: list[float], detail: str, *, within: float = EQUAL) -> Row:
    """Equal within ± `within` by two one-sided tests; the value is the ratio.

    It fails where the interval lies wholly outside, or where values that never differ were not measured at all.
    """
    estimate = stats.contrast(log_ratios, theta=within)
    holds = estimate.p_equal is not None and estimate.p_equal < stats.ALPHA
    found = outcome(holds, estimate.ci, low=1 / (1 + within), high=1 + within)
    goal = f"TOST within ± {100 * within:g} %"
    if estimate.fault:
        found, detail = "failed", f"{detail}; {estimate.fault}"
    elif found == "undecided":
        detail = f"{detail}; {_deciding(estimate, within)}"
    return Row(
        name=name,
        n=estimate.blocks,
        value=estimate.ratio,
        ci=estimate.ci,
        goal=goal,
        outcome=found,
        unit="ratio",
        detail=detail,
    )


def _deciding(estimate: stats.Contrast, within: float) -> str:
    """What would decide it: so many values that the interval is half as wide as the limit, where that is to be had."""
    needed = stats.blocks_needed(estimate.spread, within / 2) if estimate.spread else None
    more = f"some {needed:,} of them, or " if needed and needed > estimate.blocks else ""
    return f"{more}{CALMER}"


class _Empty:
    """A program whose step does nothing."""

    def step(self, i: int) -> None:
        return None

    def fetch(self, value: Any) -> None:
        return None


def _trial(size: int) -> StubTrial:
    """A stub in this very process."""
    runtime: Any = Runtime(recompiles=False)
    program: Any = Program(buffer=memoryview(bytes(size)), size=size, slows=0.0)
    module = ModuleType(STUB)
    cell = Cell(workload=Named.of(STUB, {"bytes": size}), framework=Named(STUB), device="cpu")
    return StubTrial(cell, STUB, 0, None, runtime, module, module, program)


def _bare_loop(step: Callable[[int], Any], count: int) -> None:
    for i in range(count):
        step(i)


def _bare_step(trial: StubTrial, number: int) -> int:
    step, fetch = trial.program.step, trial.program.fetch
    before = time.perf_counter_ns()
    fetch(step(number))
    return time.perf_counter_ns() - before


def _timed(function: Callable[[], Any]) -> int:
    before = time.perf_counter_ns()
    function()
    return time.perf_counter_ns() - before


def _silent(text: str) -> None:
    """Nothing to say: a stub needs no environment."""
