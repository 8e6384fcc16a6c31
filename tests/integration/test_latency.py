"""One ruler for both frameworks: a step timed by itself is as long as in a loop that does nothing but call and fetch.

Through the real launcher, in the environments of the frameworks, turn by turn in one process.
"""

from __future__ import annotations

import os
import random
import statistics
from pathlib import Path
from typing import Any

import pytest

from bench import frameworks, stats
from bench.launch.group import Group
from bench.launch.local import LocalLauncher
from bench.matrix.need import Need
from workloads.contract import Cell, Named
from workloads.linear_regression import spec

pytestmark = pytest.mark.framework

ROUNDS, STEPS = 120, 20
SHARE, NS = 0.01, 1000.0  # whichever is more; a fetch that only one of the two does is over it


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("framework", frameworks.defaults())
def test_steps_timed_singly_and_in_a_slice_take_the_same(framework: str, mode: str, tmp_path: Path) -> None:
    cell = Cell(
        workload=Named.of("linear_regression", spec.parameters({})),
        framework=Named(framework),
        mode=mode,
        phase="infer",
        batch_size=32,
        device="cpu",
        launcher="local",
    )
    launcher = LocalLauncher(cache=tmp_path)
    launcher.provide([Need.of(cell)], print)
    cpus = sorted(os.sched_getaffinity(0))[-1:]
    draw = random.Random(0)
    times: dict[str, list[float]] = {"step": [], "slice": []}
    with Group() as group:
        group.add("arm", launcher.start(cell=cell, cpus=frozenset(cpus), padding=0))
        opening: dict[str, Any] = {"cell": cell.to_json(), "framework": framework, "seed": 0, "data": None}
        group.ask("arm", "open", limit_s=900, cpus=cpus, **opening)
        group.ask("arm", "warm", limit_s=60, steps=1000)
        for _ in range(ROUNDS):
            for sync in draw.sample(sorted(times), len(times)):
                answer = group.ask("arm", "measure", limit_s=60, steps=STEPS, settle=2, sync=sync)
                times[sync].append(sum(answer["step_ns"]) / STEPS)
    slice_ns = statistics.median(times["slice"])
    more = stats.cell_figure([one - other for one, other in zip(times["step"], times["slice"], strict=True)])
    assert more is not None
    assert more.ci is not None
    print(f"{framework} {mode}: {slice_ns / 1e3:.2f} µs a step of a slice, {more.median / 1e3:+.2f} µs timed by itself")
    most_ns = max(SHARE * slice_ns, NS)
    assert more.ci[0] <= most_ns, "no noise of the machine explains this"
    assert more.ci[1] >= -most_ns
