"""Gates under real disturbances: a quota put on a container, a loop on the arms' core, a framework that recompiles."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from bench import records, store
from bench.estimate import summary
from bench.matrix.comparison import Arm
from bench.matrix.matrix import load
from bench.measure import certify, gates, parity, run
from bench.measure.stretch import Stretch
from bench.planning.slices import Plan, SlicePlan
from bench.report.live import View
from bench.report.rows import facts as origins
from workloads.contract import Cell, Named

ARMS = ("stub", "stub-work1.05")


def measured(
    folder: Path, *, launcher: str = "local", blocks: int = 1, rounds: int = 40, steps: int = 25, more: str = ""
) -> Any:
    """A run of two stubs, as stored, with steps of some 0.2 ms; no prologue comes before its first block."""
    matrix_file = folder / "gated.yaml"
    frameworks = f"[{{name: stub{more}}}, {{name: stub, work: 1.05}}]"
    matrix_file.write_text(
        f"name: gated\naxes: {{workload: [stub], framework: {frameworks}}}\nbudget: {{blocks: {blocks}}}\n"
    )
    return of(matrix_file, launcher=launcher, rounds=rounds, steps=steps)


def of(matrix_file: Path, *, launcher: str, rounds: int, steps: int = 25) -> Any:
    matrix = load(str(matrix_file))
    (comparison,) = matrix.comparisons
    names = [arm.id for arm in comparison.arms]
    plan = Plan(
        slices=SlicePlan(steps=dict.fromkeys(names, steps), settle_steps=2, rounds=rounds),
        warm_steps=dict.fromkeys(names, 10),
        step_ns=dict.fromkeys(names, 200_000.0),
    )
    certificate = parity.skipped(certify.STUB_REASON).to_json()
    sides = [{"comparison": comparison.id, "baseline": comparison.baseline, "arm": arm.id}
             for _, arm in comparison.contrasts]  # fmt: skip
    prepared = run.Prepared(plans={comparison.id: plan}, certificates=[side | certificate for side in sides])
    view = View(Console(file=io.StringIO()))
    out = matrix_file.parent / "runs"
    return store.read(run.new(matrix, launchers=[launcher], out=out, base=None, view=view, prepared=prepared))


def causes(record: dict[str, Any]) -> set[str]:
    return {records.cause(reason) for reason in record["spoiled"]}


@contextmanager
def loop_on_the_arms_core(runs: Path) -> Iterator[None]:
    """A process that never stops, in a session of its own: it comes to the arms' processor once a run has chosen it."""
    code = f"""
import json, os, pathlib, time
while not (found := [*pathlib.Path({str(runs)!r}).glob("*/run.json")]):
    time.sleep(0.005)
os.sched_setaffinity(0, json.loads(found[0].read_text())["cpus"]["arms"]["1"])
while True: pass"""
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_a_busy_loop_on_the_arms_core_spoils_every_attempt_and_is_told_beside_the_ratio(tmp_path: Path) -> None:
    with loop_on_the_arms_core(tmp_path / "runs"):
        stored = measured(tmp_path, rounds=10, steps=250)  # a slice of 5 ms mostly ends before the kernel takes turns
    assert [record["attempt"] for record in stored.blocks][:3] == [0, 1, 2]
    for record in stored.blocks:
        assert "waiting" in causes(record), record["gates"]
        assert set(record["arms"]) == set(ARMS)
        assert all(outcome["slice_involuntary_switches"] > 0 for outcome in record["arms"].values())
        (facts,) = record["gates"]
        assert facts["others_s"] > 0.3 * facts["seconds"]
    document, count = summary.summarise(stored), len(stored.blocks)
    (contrast,) = document["contrasts"]
    assert contrast["verdict"] in {"slower", "inconclusive", "invalid"}  # 5 % more work, two blocks
    assert contrast["ratio"] is not None
    (caveat,) = (one for one in contrast["caveats"] if one["kind"] == "disturbed")
    assert (caveat["figures"]["disturbed"], caveat["figures"]["attempts"]) == (count, count)
    assert caveat["figures"]["cpu_time"]["ratio"] == pytest.approx(1 / 1.05, rel=0.05)
    assert f"{count} disturbed (mostly waiting)" in dict(origins(document))["blocks"]


def test_an_arm_that_recompiles_spoils_every_block(tmp_path: Path) -> None:
    stored = measured(tmp_path, blocks=2, rounds=12, more=", recompiles: true")
    assert [(record["block"], record["attempt"]) for record in stored.blocks][:4] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    for record in stored.blocks:
        (arm,) = set(record["arms"]) - {"stub-work1.05"}
        compiled = record["gates"][0]["arms"][arm]["compilations"]
        assert f"compilation: {arm} compiled {compiled} times while it was timed (limit 0)" in record["spoiled"]
        assert compiled == 12 + 12 // 4  # once a slice, those of the other sync with them
    (contrast,) = summary.summarise(stored)["contrasts"]
    assert (contrast["verdict"], contrast["ratio"]) == ("invalid", None)
    assert contrast["repeated_because"] == "compilation"


def test_in_serial_every_arm_has_a_stretch_of_its_own(tmp_path: Path) -> None:
    matrix_file = tmp_path / "serial.yaml"
    axes = "{workload: [stub], framework: [{name: stub}, {name: stub, work: 1.05}]}"
    matrix_file.write_text(f"name: gated\nschedule: serial\naxes: {axes}\nbudget: {{blocks: 1}}\n")
    record = of(matrix_file, launcher="local", rounds=12).blocks[0]
    assert sorted(arm for facts in record["gates"] for arm in facts["arms"]) == list(ARMS)
    for facts in record["gates"]:
        ((arm, own),) = facts["arms"].items()
        assert own["slice_s"] < facts["seconds"]
        assert own["idle_cpu_s"] is None
        assert facts["nulls"][f"{arm}.idle_cpu_s"] == "alone, an arm has no others to stand still for"
        assert record["arms"][arm]["idle_cpu_s"] is None


def test_an_arm_that_works_in_anothers_slices_is_found_and_one_that_sleeps_is_not() -> None:
    cell = Cell(workload=Named.of("stub", {"bytes": 64}), framework=Named("stub"), device="cpu")
    scripts = {"busy": "while True: pass", "calm": "import time; time.sleep(60)"}
    processes = {arm: subprocess.Popen([sys.executable, "-c", code]) for arm, code in scripts.items()}
    channels = {arm: SimpleNamespace(pid=process.pid, scope="process", gpu=None) for arm, process in processes.items()}
    group: Any = SimpleNamespace(channel=channels.__getitem__)
    answer = {
        "start_ns": 0, "end_ns": 10**9, "cpu_ns": 10**9, "involuntary_switches": 0,
        "voluntary_switches": 0, "compilations": 0,
        "woke_cpu_ns": 0, "slept_cpu_ns": 10**9, "step_ns": [10**9],
    }  # fmt: skip
    try:
        time.sleep(0.5)  # past their start
        arms = [Arm(id=arm, cell=cell) for arm in scripts]
        stretch = Stretch(group, arms, cpus=dict.fromkeys(scripts, (0,)), compilations=dict.fromkeys(scripts, 0))
        for arm in scripts:
            stretch.begin_slice(arm)
            time.sleep(1.0)
            stretch.end_slice(arm, answer, 1)
        facts = stretch.facts()
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    busy, calm = facts.arms["busy"], facts.arms["calm"]
    assert busy.idle_s == pytest.approx(1.0, rel=0.5)
    assert busy.idle_cpu_s is not None
    assert busy.idle_cpu_s > 0.1
    assert calm.idle_cpu_s == pytest.approx(0.0, abs=0.01)
    found = [reason for reason in gates.reasons([facts]) if records.cause(reason) == "busy while idle"]
    assert len(found) == 1
    assert "busy used" in found[0]


@pytest.mark.docker
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_a_container_throttled_in_mid_block_spoils_it_and_the_next_attempt_is_not_throttled(tmp_path: Path) -> None:
    throttled: list[str] = []
    watcher = threading.Thread(target=throttle_once, args=("gated-", throttled), daemon=True)
    watcher.start()
    stored = measured(tmp_path, launcher="docker", rounds=150)
    watcher.join(timeout=60)
    assert len(throttled) == 1
    first, second = stored.blocks[:2]
    (quota,) = [reason for reason in first["spoiled"] if records.cause(reason) == "CPU quota"]
    (facts,) = first["gates"]
    (arm,) = [name for name, own in facts["arms"].items() if own["throttled"]]
    times = facts["arms"][arm]["throttled"]
    assert quota == f"CPU quota: {arm}'s control group was held back {times} times (limit 0)"
    assert (second["block"], second["attempt"]) == (first["block"], 1)
    assert set(second["arms"]) == set(ARMS)
    assert "CPU quota" not in causes(second)
    assert all(own["throttled"] == 0 for own in second["gates"][0]["arms"].values())


def throttle_once(run_prefix: str, throttled: list[str]) -> None:
    """Give one of the first block's containers a fifth of a processor, once both have been up for a while."""
    from bench.engine.client import engine

    with closing(engine()) as client:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            up = [
                container
                for container in client.api.containers(filters={"label": "bench.run", "status": "running"})
                if container["Labels"]["bench.run"].startswith(run_prefix)
            ]
            if len(up) == len(ARMS):
                time.sleep(0.5)
                client.api.update_container(up[0]["Id"], cpu_period=100_000, cpu_quota=20_000)
                throttled.append(up[0]["Id"])
                return
            time.sleep(0.05)
