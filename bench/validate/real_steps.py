"""Small real steps in the harness against a bare call-and-fetch loop, in turn in one process of each framework.

What the harness adds around a framework, a stub cannot see: an op that waits for a device once cost the steps of one
framework a quarter of their time, and those of the other nothing. So the worker itself steps both ways, in the
environment, the mode and the phase that are measured; each phase by the sync that decides it.

And one batch again and again against the whole pool: what is not computed anew each time would be the faster.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bench import frameworks
from bench.errors import WorkerFailed
from bench.launch import cache as compile_caches
from bench.launch.group import Group
from bench.launch.local import LocalLauncher
from bench.machine import cpus
from bench.matrix.model import spec_of
from bench.matrix.need import Need
from bench.measure import lockstep, provenance
from bench.validate.observer import equivalence
from bench.validate.row import Row
from workloads.contract import Cell, Named, Value

if TYPE_CHECKING:
    from bench.launch import Channel

EQUAL = 0.02
# 0.1 to 0.6 ms in every framework and mode, 1.5 ms in the slowest eager training: less would be all call, no step.
WORKLOAD, SIZES, BATCH_SIZE = "linear_regression", {"n": 1024, "d": 512}, 1024
WARM_STEPS = 300
# By sync: steps of a turn, and pairs of turns; an interrupt in one pair moves no median of its group.
STEPS, PAIRS = {"step": 1, "slice": 2}, {"step": 1600, "slice": 800}
GROUPS = 40
# Sixteen batches of 16 kB lie in a cache all together, so that only what is remembered could tell one from many.
POOL_EQUAL, POOL_SIZES, POOL_BATCH_SIZE = 0.10, {"n": 1024, "d": 64}, 64
POOL_STEPS, POOL_PAIRS = 16, 400
_LIMIT_S = 300.0


def cells(*, full: bool) -> tuple[Cell, ...]:
    """Inference in every mode, and training; quick trains in eager mode alone, where nothing compiles for a minute."""
    every = _modes()
    trained = {name: modes if full else modes[:1] for name, modes in every.items()}
    return tuple(
        _cell(framework, mode, phase, SIZES, BATCH_SIZE)
        for phase, modes in (("infer", every), ("train", trained))
        for framework, own in modes.items()
        for mode in own
    )


def pool_cells(*, full: bool) -> tuple[Cell, ...]:
    """Inference, where an answer could be remembered; in quick without graph mode."""
    return tuple(
        _cell(framework, mode, "infer", POOL_SIZES, POOL_BATCH_SIZE)
        for framework, modes in _modes().items()
        for mode in modes
        if full or mode != "graph"
    )


def _modes() -> dict[str, tuple[str, ...]]:
    return {name: frameworks.every()[name].modes for name in frameworks.defaults()}


def _cell(framework: str, mode: str, phase: str, sizes: Mapping[str, Value], batch_size: int) -> Cell:
    return Cell(
        workload=Named.of(WORKLOAD, spec_of(WORKLOAD).parameters(sizes)),
        framework=Named(framework),
        mode=mode,
        phase=phase,
        batch_size=batch_size,
        device="cpu",
        launcher="local",
    )


def rows(*, full: bool, seed: int, progress: Callable[[str], None]) -> Iterator[Row]:
    """One row a cell, each in a fresh worker. Raises EnvironmentUnavailable: a framework cannot be had here."""
    asked, pool = cells(full=full), pool_cells(full=full)
    placement = cpus.choose([1])
    with compile_caches.compile_cache(f"validate-{provenance.fresh_id()}") as cache, cpus.confined(placement.control):
        launcher = LocalLauncher(cache=cache)
        launcher.provide(sorted({Need.of(cell) for cell in asked}, key=str), progress)
        for cell in asked:
            yield row(launcher, cell, placement.arms[1], seed)
        for cell in pool:
            yield pool_row(launcher, cell, placement.arms[1], seed)


def row(launcher: LocalLauncher, cell: Cell, own: frozenset[int], seed: int) -> Row:
    """The harness's time of a step against a bare loop's; left out, and saying why, where the mode cannot be had."""
    name = f"real steps: {cell.framework.name} {cell.mode}, {cell.phase}"
    sync = lockstep.deciding_sync(cell.phase)
    turns = {"pairs": PAIRS[sync], "steps": STEPS[sync]}
    try:
        found = _turns(launcher, cell, own, seed, verb="against_bare", sync=sync, **turns)
    except WorkerFailed as failure:
        return _left_out(name, EQUAL, failure)
    return judged(name, found, sync)


def pool_row(launcher: LocalLauncher, cell: Cell, own: frozenset[int], seed: int) -> Row:
    """The time of a step on one batch again and again against that on the pool; left out as in `row`."""
    name = f"one batch against sixteen: {cell.framework.name} {cell.mode}, {cell.phase}"
    try:
        found = _turns(launcher, cell, own, seed, verb="one_against_all", pairs=POOL_PAIRS, steps=POOL_STEPS)
    except WorkerFailed as failure:
        return _left_out(name, POOL_EQUAL, failure)
    groups, size = _grouped([math.log(many / one) for one, many in zip(found["one_ns"], found["all_ns"], strict=True)])
    detail = (
        f"sixteen ÷ one, turns of {POOL_STEPS} steps in random order in one process; n is of medians of {size} pairs"
    )
    return equivalence(name, groups, detail, within=POOL_EQUAL)


def _left_out(name: str, within: float, failure: WorkerFailed) -> Row:
    """In place of a row, where the mode cannot be had here. Raises WorkerFailed: it failed otherwise."""
    if failure.kind != "unsupported":
        raise failure
    goal, left_out = f"TOST within ± {100 * within:g} %", f"left out: {failure}; with it this would decide"
    return Row(name=name, n=0, value=None, ci=None, goal=goal, outcome="undecided", unit="ratio", detail=left_out)


def _grouped(log_ratios: list[float]) -> tuple[list[float], int]:
    """Medians of groups of pairs, and how many are in each."""
    size = len(log_ratios) // GROUPS
    return [statistics.median(log_ratios[start : start + size]) for start in range(0, GROUPS * size, size)], size


def judged(name: str, found: Mapping[str, list[int]], sync: str) -> Row:
    """Medians of groups of pairs, by TOST.

    found  harness_ns, bare_ns (pairs,): totals of turns
    """
    log_ratios = [math.log(bare / ours) for ours, bare in zip(found["harness_ns"], found["bare_ns"], strict=True)]
    groups, size = _grouped(log_ratios)
    step_us = statistics.median(found["bare_ns"]) / STEPS[sync] / 1e3
    detail = (
        f"{step_us:.0f} µs a step by a bare loop, {WORKLOAD}, batch {BATCH_SIZE}; bare ÷ harness, sync {sync}, turns "
        f"of {STEPS[sync]} in random order in one process; n is of medians of {size} pairs"
    )
    return equivalence(name, groups, detail, within=EQUAL)


def _turns(
    launcher: LocalLauncher, cell: Cell, own: frozenset[int], seed: int, *, verb: str, **asked: Any
) -> Mapping[str, list[int]]:
    """All pairs of one worker."""
    arm = f"{cell.framework.name} {cell.mode}"
    opening = {"cell": cell.to_json(), "framework": cell.framework.name, "seed": seed, "data": None}
    with Group() as group:
        channel: Channel = launcher.start(cell=cell, cpus=own, padding=0)
        group.add(arm, channel)
        group.ask(arm, "open", limit_s=lockstep.OPEN_LIMIT_S[cell.mode], cpus=sorted(own), **opening)
        group.ask(arm, "warm", limit_s=_LIMIT_S, steps=WARM_STEPS)
        found = group.ask(arm, verb, limit_s=_LIMIT_S, **asked)
        group.ask(arm, "close", limit_s=lockstep.CLOSE_LIMIT_S)
    return found
