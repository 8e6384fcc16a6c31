"""`compare: threads`, from end to end with stubs: each arm has as many processors as threads, and they are its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import store

BENCH = (sys.executable, "-m", "bench")
USABLE = sorted(os.sched_getaffinity(0))
needs_two = pytest.mark.skipif(len(USABLE) < 2, reason="one CPU: an arm of two threads cannot be had")


def bench(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BENCH, *map(str, arguments)], env=os.environ | {"COLUMNS": "160"} | variables,
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def matrix(folder: Path, threads: str, blocks: int = 2) -> Path:
    path = folder / "threads.yaml"
    axes = f"workload: [{{name: stub, bytes: 131072}}], framework: [stub], threads: {threads}"
    path.write_text(f"name: threads\naxes: {{{axes}}}\ncompare: threads\nbudget: {{blocks: {blocks}}}\n")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("threads")
    done = bench("run", "--matrix", matrix(folder, "[1, 2]"), "--launcher", "local", "--out", folder / "runs")
    assert done.returncode in (0, 3), done.stderr  # 3: a busy machine may spoil the blocks
    (found,) = (folder / "runs").iterdir()
    return found


def threads_of(stored: store.StoredRun) -> dict[str, int]:
    (comparison,) = stored.run["comparisons"].values()
    return {arm: cell["threads"] for arm, cell in comparison["arms"].items()}


@needs_two
def test_each_arm_has_as_many_processors_as_threads_the_fewer_within_the_more(run: Path) -> None:
    stored = store.read(run)
    threads, placed = threads_of(stored), stored.run["cpus"]["arms"]
    assert sorted(threads.values()) == [1, 2]
    assert set(placed["1"]) < set(placed["2"])
    for record in stored.blocks:
        for arm, count in threads.items():
            assert record["arms"][arm]["effective"]["cpus"] == placed[str(count)]
            (facts,) = record["gates"]
            assert facts["arms"][arm]["cpus"] == placed[str(count)]
            assert facts["arms"][arm]["busy_s"] > 0
            assert facts["arms"][arm]["others_s"] <= facts["others_s"]
        assert facts["cpus"] == placed["2"]


@needs_two
def test_threads_that_are_compared_are_no_confounder_and_the_reports_say_where_arms_ran(run: Path) -> None:
    document: dict[str, Any] = json.loads(bench("report", run, "--format", "json").stdout)
    (contrast,) = document["contrasts"]
    assert contrast["confounders"] == []
    assert document["run"]["cpus"] == store.read(run).run["cpus"]
    for kind in ("table", "markdown"):
        assert "arms of 1 thread on CPU" in " ".join(bench("report", run, "--format", kind).stdout.split()), kind


@needs_two
def test_a_resumed_run_looks_anew_and_says_where_its_arms_went(run: Path) -> None:
    header = json.loads((run / "run.json").read_text())
    moved = header["cpus"] | {"arms": {"1": [USABLE[0]], "2": [USABLE[0], 4095]}}
    (run / "run.json").write_text(json.dumps(header | {"cpus": moved}))
    assert bench("run", "--resume", run).returncode in (0, 3)
    assert store.read(run).run["cpus"] == moved, "it was finished: nothing ran anywhere else"
    (run / "run.json").write_text(json.dumps(header | {"cpus": moved, "finished_at": None}))
    done = bench("run", "--resume", run)
    assert done.returncode in (0, 3), done.stderr
    now = store.read(run).run
    assert set(now["cpus"]["arms"]["2"]) <= set(USABLE)
    (note,) = (note for note in now["notes"] if note.startswith("resumed at "))
    assert f": arms moved from CPUs {USABLE[0]},4095 to CPUs " in note


@pytest.mark.parametrize("threads", [f"[1, {len(USABLE) + 1}]", "[2, 1024]"])
def test_more_threads_than_cpus_are_refused_before_anything_is_made(tmp_path: Path, threads: str) -> None:
    cache, runs = tmp_path / "cache", tmp_path / "runs"
    done = bench("run", "--matrix", matrix(tmp_path, threads), "--out", runs, BENCH_CACHE=str(cache))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    most = threads.strip("[]").split()[-1]
    assert f"threads: {most} is not to be had here; choose from 1 to {len(USABLE)}, the usable CPUs" in line
    assert not [path for path in (*cache.rglob("*"), *runs.rglob("*")) if path.is_file()]
