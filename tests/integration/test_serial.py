"""Schedule serial with real workers: no two arms are up together, the record is the same, and lockstep is its contrast.

Stubs go through the real launcher and the real loop; the prologue is tried with the frameworks themselves as well.
"""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from bench import launch, store
from bench.errors import InputError
from bench.estimate import summary
from bench.launch.local import LocalChannel, LocalLauncher
from bench.matrix.matrix import load
from bench.matrix.need import Need
from bench.measure import certify, lockstep, provenance, run
from bench.measure.lockstep import Bench, Block
from bench.planning.schedule import Planned
from bench.records import valid
from bench.report.live import View

if TYPE_CHECKING:
    from bench.matrix.comparison import Comparison
    from bench.measure.prologue import Prologue

STUBS = "axes: {workload: [stub], framework: [{name: stub}, {name: stub, work: 1.5}]}"
CLASSIC = "axes: {workload: [{name: linear_regression, preset: classic, evaluate_steps: 20}]}"
CPUS = frozenset({min(os.sched_getaffinity(0))})


class Watched(LocalLauncher):
    """The real launcher; it looks how many of its workers are alive when it starts one, and may kill the new one."""

    alive: list[int]
    channels: list[LocalChannel]
    kill: bool

    def start(self, **how: Any) -> LocalChannel:
        self.alive.append(sum(Path(f"/proc/{channel.pid}").exists() for channel in self.channels))
        channel = super().start(**how)
        self.channels.append(channel)
        if self.kill:
            os.kill(channel.pid, signal.SIGKILL)
        return channel


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(cache=tmp_path / "cache")
    watched.alive, watched.channels, watched.kill = [], [], False
    yield watched
    watched.close()


def comparison(folder: Path, text: str) -> Comparison:
    path = folder / "m.yaml"
    path.write_text(text)
    return load(str(path)).with_options(launcher="local", device="cpu").comparisons[0]


def bench_of(launcher: Watched, kind: str, one: Comparison) -> Bench:
    launcher.provide(sorted({Need.of(arm.cell) for arm in one.arms}, key=str), lambda _: None)
    return Bench(launcher=launcher, sampler=None, arm_cpus={1: CPUS}, seed=3, data=None, schedule=kind)


def prologue(bench: Bench, one: Comparison, cache: Path) -> Prologue:
    view = View(Console(file=io.StringIO()))
    view.plan([one.id], blocks=1, deadline=0.0)
    return certify.begin(bench, one, cache=cache, control_cpus=CPUS, view=view)


def measured(launcher: Watched, kind: str, one: Comparison, cache: Path) -> Block:
    bench = bench_of(launcher, kind, one)
    plan = prologue(bench, one, cache).plan
    assert plan
    return lockstep.measure_block(bench, one, Planned(comparison=one.id, block=0), plan)


def spans(block: Block) -> dict[str, tuple[int, int]]:
    """From each arm's first slice to the end of its last, on the one clock."""
    found: dict[str, tuple[int, int]] = {}
    for row in block.samples:
        start, end = found.get(row["arm"], (row["start_ns"], row["end_ns"]))
        found[row["arm"]] = (min(start, row["start_ns"]), max(end, row["end_ns"]))
    return found


def test_in_serial_every_arm_takes_all_its_slices_before_the_next_is_started(launcher: Watched, tmp_path: Path) -> None:
    block = measured(launcher, "serial", comparison(tmp_path, STUBS), tmp_path)
    assert launcher.alive == [0, 0, 0, 0]  # prologue and block, two arms each
    first, second = (spans(block)[arm] for arm in block.order)
    assert first[1] < second[0]
    assert valid(block.record())
    assert {outcome["idle_cpu_s"] for outcome in block.outcomes.values()} == {None}
    rounds = {arm: {row["round"] for row in block.samples if row["arm"] == arm} for arm in block.order}
    assert [rounds[arm] for arm in block.order] == [set(range(block.rounds))] * 2, "slices are paired by their round"


def test_in_lockstep_arms_are_up_together_and_take_turns(launcher: Watched, tmp_path: Path) -> None:
    block = measured(launcher, "lockstep", comparison(tmp_path, STUBS), tmp_path)
    assert launcher.alive == [0, 1, 0, 1]
    first, second = (spans(block)[arm] for arm in block.order)
    assert first[1] > second[0]
    assert second[1] > first[0]
    assert all(outcome["idle_cpu_s"] is not None for outcome in block.outcomes.values())


@pytest.mark.parametrize(("kind", "told"), [("lockstep", True), ("serial", False)])
def test_a_worker_killed_for_memory_beside_others_is_told_of_serial(
    launcher: Watched, tmp_path: Path, kind: str, told: bool
) -> None:
    one = comparison(tmp_path, STUBS)
    bench = bench_of(launcher, kind, one)
    plan = prologue(bench, one, tmp_path).plan
    assert plan
    launcher.kill = True
    block = lockstep.measure_block(bench, one, Planned(comparison=one.id, block=0), plan)
    died = block.outcomes[block.order[0]]
    assert (died["status"], died["kind"]) == ("failed", "oom")
    assert ("write schedule: serial into the matrix" in died["reason"]) is told
    assert block.outcomes[block.order[1]]["status"] == "stopped"
    failed = prologue(bench, one, tmp_path).failed
    assert failed
    assert ("write schedule: serial into the matrix" in str(failed.failure)) is told


@pytest.mark.usefixtures("calm")
def test_a_whole_run_in_serial_orders_what_differs_eightfold_and_says_how_it_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "serial.yaml"
    axes = "axes: {workload: [{name: stub, bytes: 65536}], framework: [{name: stub}, {name: stub, work: 8}]}"
    path.write_text(f"name: s\n{axes}\nschedule: serial\nbudget: {{blocks: 2}}\nseed: 1\n")
    folder = run.new(
        load(str(path)), launchers=["local"], out=tmp_path, base=None, view=View(Console(file=io.StringIO()))
    )
    stored = store.read(folder)
    assert (stored.run["schedule"], stored.run["matrix"]["schedule"]) == ("serial", "serial")
    document = summary.summarise(stored)
    assert document["run"]["schedule"] == "serial"
    (contrast,) = document["contrasts"]
    assert contrast["blocks"] == 2
    assert contrast["ratio"] < 0.5  # 1 ÷ 8; what else runs on the machine cancels in lockstep alone
    assert all(cell["metrics"]["cold_first_step_s"] > 0 for cell in document["cells"])


def test_a_run_is_not_resumed_under_another_schedule(launcher: Watched, tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(STUBS)
    lockstep_matrix = load(str(path)).with_options(launcher="local", device="cpu")
    place = launch.Place(run_id="x", cache=tmp_path, data=None, base=None)
    before, now, again = (
        provenance.header(place, matrix, launcher, {}, None)
        for matrix in (lockstep_matrix, replace(lockstep_matrix, schedule="serial"), lockstep_matrix)
    )
    provenance.refuse_changes(tmp_path, before, again)
    with pytest.raises(InputError, match="cannot be resumed, because schedule changed"):
        provenance.refuse_changes(tmp_path, before, now)


@pytest.mark.framework
def test_in_serial_frameworks_are_certified_and_evaluated_one_after_another(launcher: Watched, tmp_path: Path) -> None:
    one = comparison(tmp_path, CLASSIC)
    found = prologue(bench_of(launcher, "serial", one), one, tmp_path)
    assert launcher.alive == [0, 0]
    assert [certificate.status for certificate in found.certificates.values()] == ["passed"]
    assert set(found.evaluations) == {"tensorflow", "pytorch"}
    assert found.plan
    assert all(times and times["first_step_s"] > 0 for times in found.plan.cold.values())
