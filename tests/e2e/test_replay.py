"""What is read beside a run, from end to end: a replayed GPU, one that is lost, others' programs, and CPU time.

The GPU here is a trace over NVML's own binding, and every page says so. Nothing is a measurement of one.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import nvml_stub as nvml
import pyarrow.parquet as pq
import pytest
from absent import absent

from bench import store, telemetry
from bench.estimate import soaks
from bench.machine import cpus
from bench.telemetry import programs

BENCH = (sys.executable, "-m", "bench")
ROWS_PER_S = 10  # of the trace: as often as an energy counter moves
MATRIX = """\
name: beside
axes:
  workload: [{{name: stub, bytes: 262144}}]
  framework: [stub, {{name: stub, work: 1.5}}]
  device: [{device}]
budget: {{blocks: {blocks}, per_comparison: 1h, total: 1h}}
telemetry: {telemetry}
"""
Trace = list[dict[str, float]]


def moving(seconds: int) -> Trace:
    """A GPU whose power, use and clock move all the time, and whose energy is the integral of its power."""
    rows, energy_j = [], 1000.0
    for place in range(seconds * ROWS_PER_S):
        at_s = place / ROWS_PER_S
        watts = 220 + 90 * math.sin(at_s / 2.3) + 40 * math.sin(at_s / 0.7)
        rows.append({
            "time_s": at_s, "memory_total_bytes": 80 * 2**30, "gpu_util_percent": round(55 + 40 * math.sin(at_s / 3)),
            "gpu_memory_used_bytes": 2**31 + place, "gpu_memory_reserved_bytes": 2**28, "power_mw": round(watts * 1e3),
            "power_average_mw": round(watts * 1e3), "energy_mj": round(energy_j * 1e3),
            "temperature_c": 40 + place // 200,
            "sm_clock_mhz": 1980 - 15 * (place % 4), "memory_clock_mhz": 2619, "architecture": 9,
        })  # fmt: skip
        energy_j += watts / ROWS_PER_S
    return rows


def integral(trace: Trace, field: str, start_s: float, end_s: float) -> float:
    """Of a field that holds from each row to the next, between two moments of the trace."""
    return sum(
        before[field] * max(0.0, min(end_s, after["time_s"]) - max(start_s, before["time_s"]))
        for before, after in pairwise(trace)
    )


@contextmanager
def going(folder: Path, env: Mapping[str, str], **words: object) -> Iterator[subprocess.Popen[str]]:
    """A run with the stub on the library path; `words` fill the matrix."""
    matrix = folder / "beside.yaml"
    matrix.write_text(MATRIX.format(**{"device": "cpu", "blocks": 2, "telemetry": "{}"} | words))
    command = [*BENCH, "run", "--matrix", str(matrix), "--launcher", "local", "--out", str(folder / "runs")]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Elsewhere than in a checkout, which would come before what PYTHONPATH names.
    with subprocess.Popen(command, env=os.environ | {"COLUMNS": "160"} | env, cwd=folder, **pipes) as process:
        yield process


def finished(folder: Path, env: Mapping[str, str], **words: object) -> tuple[store.StoredRun, str, str]:
    with going(folder, env, **words) as process:
        said, told = process.communicate()
    assert process.returncode == 0, told
    (run,) = (folder / "runs").iterdir()
    return store.read(run), said, told


def bench(*arguments: object) -> str:
    env = os.environ | {"COLUMNS": "160"}
    done = subprocess.run([*BENCH, *map(str, arguments)], env=env, capture_output=True, text=True, check=True)
    return done.stdout


def control(runs: Path) -> frozenset[int]:
    """The harness's processors, once a run has chosen them."""
    while not (found := [*runs.glob("*/run.json")]):
        time.sleep(0.1)
    return frozenset(store.read_run(found[0].parent)["cpus"]["control"])


@pytest.fixture(scope="module")
def trace() -> Trace:
    return moving(90)


@pytest.fixture(scope="module")
def replay(
    nvml_stub: Path, trace: Trace, tmp_path_factory: pytest.TempPathFactory, calm_tree: Callable[[], Path]
) -> tuple[store.StoredRun, str, dict[str, Any]]:
    """A run on the processor with a replayed GPU beside it, its table, and what `bench top` saw meanwhile."""
    folder = tmp_path_factory.mktemp("replay")
    path = nvml.write_trace(folder / "trace.csv", trace)
    env = {"LD_LIBRARY_PATH": str(nvml_stub), "NVML_STUB_TRACE": str(path), "PYTHONPATH": str(calm_tree())}
    seen: dict[str, Any] = {}
    with going(folder, env) as process, cpus.confined(control(folder / "runs")):  # off the arms' processor
        while process.poll() is None and not (len(seen.get("arms", ())) == 2 and seen["blocks"]):
            looked = subprocess.run(
                [*BENCH, "top", "--format", "json", "--out", str(folder / "runs")],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            seen = json.loads(looked.stdout) if looked.returncode == 0 else seen
            time.sleep(0.2)
        said, told = process.communicate()
    assert process.returncode == 0, told
    (run,) = (folder / "runs").iterdir()
    return store.read(run), said, seen


def windows(run: store.StoredRun) -> Iterator[tuple[str, int, float, float]]:
    """Every soak, as seconds of the trace."""
    for record in run.blocks:
        path = run.telemetry(record)
        assert path is not None
        opened_ns = telemetry.meta(path)["nvml_opened_ns"]
        for arm, outcome in record["arms"].items():
            soak = outcome["soak"]
            yield arm, record["block"], *((soak[end] - opened_ns) / 1e9 for end in ("start_ns", "end_ns"))


def test_the_energy_of_a_soak_is_the_integral_of_the_trace_within_1_percent(
    replay: tuple[store.StoredRun, str, Any], trace: Trace
) -> None:
    run, _, _ = replay
    found = soaks.read(run).of
    soaked = list(windows(run))
    assert len(soaked) == 2 * len(run.blocks) >= 4
    for arm, block, start_s, end_s in soaked:
        (key,) = [key for key in found if key[1] == arm]
        figures = found[key][block].figures
        joules = figures["power_by_energy_w"] * (end_s - start_s)
        assert joules == pytest.approx(integral(trace, "power_mw", start_s, end_s) / 1000, rel=0.01)
        assert figures["energy_uncertainty"] < 0.03
        steps = run.blocks[block]["arms"][arm]["soak"]["steps"]
        assert figures["joules_per_item"] == pytest.approx(joules / (steps * 64))


def test_the_use_of_an_arm_is_that_of_its_own_soaks(replay: tuple[store.StoredRun, str, Any], trace: Trace) -> None:
    run, _, _ = replay
    found = soaks.read(run).of
    for arm, block, start_s, end_s in windows(run):
        (key,) = [key for key in found if key[1] == arm]
        expected = integral(trace, "gpu_util_percent", start_s + 1, end_s) / (end_s - start_s - 1)
        assert found[key][block].figures["gpu_util_percent"] == pytest.approx(expected, abs=0.5)


def test_json_table_page_and_picture_call_it_a_replay(replay: tuple[store.StoredRun, str, Any], tmp_path: Path) -> None:
    run, table, _ = replay
    document = json.loads(bench("report", run.folder, "--format", "json"))
    assert document["telemetry"]["source"] == "replay"
    assert document["telemetry"]["refresh_s"][nvml.UUID]["energy_mj"] == pytest.approx(0.1, abs=0.025)
    for cell in document["cells"]:
        soak = cell["metrics"]["soak"]
        assert soak["blocks"] >= 2
        assert soak["power_is"] == "average of 1 s"
        assert cell["metrics"]["gpu_util_percent"] == soak["gpu_util_percent"]["median"] > 0
        assert cell["metrics"]["joules_per_item"] == soak["joules_per_item"]["median"] > 0
        assert "powercap" in cell["nulls"]["soak.cpu_joules_per_item"] or soak["cpu_joules_per_item"]["median"]
    assert "soaks" in table
    show, page = bench("telemetry", "show", run.folder), bench("report", run.folder, "--format", "markdown")
    for text in (table, page, show):
        assert "REPLAY of a recorded trace" in " ".join(text.split())
        assert "hardware" not in text
    (drawn,) = bench("telemetry", "chart", run.folder).split()
    picture = Path(drawn).read_text()
    assert picture.startswith("<svg")
    words = re.sub(r"<[^>]+>", " ", picture)
    assert "REPLAY of a recorded trace (STUB-GPU (replay)), nothing of it was measured here" in words
    for title in ("GPU utilization, %", "GPU memory, GiB", "GPU power, W", "clocks, MHz", "CPU, % of a core"):
        assert title in words
    bench("telemetry", "chart", run.folder, "--to", tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    bench("telemetry", "chart", run.folder, "--block", 1, "--to", tmp_path / "c.json")
    specification = json.loads((tmp_path / "c.json").read_text())
    shaded = {(one["arm"], one["what"]) for one in specification["datasets"]["spans"]}
    assert {what for arm, what in shaded if arm == "stub"} == {"start", "compile", "warm_up", "slice", "soak"}


def test_every_reading_is_an_arms_or_a_gap(replay: tuple[store.StoredRun, str, Any]) -> None:
    run, _, _ = replay
    document = json.loads(bench("telemetry", "show", run.folder, "--format", "json"))
    paths = [path for record in run.blocks if (path := run.telemetry(record))]
    rows = [row for path in paths for row in pq.read_table(path, columns=["arm", "gpu"]).to_pylist()]
    of_gpu = sum(row["gpu"] is not None and row["arm"] is None for row in rows)
    assert sum(one["gpu_readings"] for one in document["spans"]) == of_gpu > 500
    kinds = ("readings", "gpu_readings", "energy_readings")
    assert sum(one[kind] for one in document["spans"] for kind in kinds) == len(rows), "none is left out"
    gap = next(one for one in document["spans"] if one["span"] == "gap")
    assert gap["seconds"] > 0 < gap["gpu_readings"]
    soaked = [one for one in document["spans"] if one["span"] == "soak"]
    assert {one["owner"] for one in soaked} == {"stub", "stub-work1.5"}
    for one in soaked:
        assert one["seconds"] == pytest.approx(6, abs=0.2)
        assert one["gpu_readings"] == pytest.approx(one["seconds"] * telemetry.SOAK_HZ, rel=0.1)
    assert document["sampler"]["cpu_percent"] < 5


def test_top_sees_what_the_arms_do_while_they_do_it(replay: tuple[store.StoredRun, str, Any]) -> None:
    run, _, seen = replay
    assert seen["run"] == run.run["id"]
    assert {one["label"] for one in seen["arms"]} == {"stub", "stub work 1.5"}
    assert all(one["memory_bytes"] > 2**20 for one in seen["arms"])
    (gpu,) = seen["gpus"]
    assert 0 < gpu["gpu_util_percent"] <= 95
    done = subprocess.run([*BENCH, "top", "--out", str(run.folder.parent)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no run goes on in" in done.stderr


# ---------------------------------------------------------------- what goes wrong with a GPU


def test_a_gpu_that_is_lost_on_the_way_ends_its_figures_and_not_the_run(nvml_stub: Path, tmp_path: Path) -> None:
    fields = ("gpu_util_percent", "gpu_memory_used_bytes", "power_mw", "energy_mj", "sm_clock_mhz", "temperature_c")
    steady = list(nvml.steady(2.0, watts=300, gpu_util_percent=90, temperature_c=50, memory_total_bytes=2**30))
    trace = nvml.write_trace(tmp_path / "trace.csv", [*steady, {"time_s": 2.0} | dict.fromkeys(fields, "!15")])
    env = {"LD_LIBRARY_PATH": str(nvml_stub), "NVML_STUB_TRACE": str(trace)}
    run, table, told = finished(tmp_path, env, blocks=1, telemetry="{soak: 2s}")
    document = json.loads(bench("report", run.folder, "--format", "json"))
    assert [one["verdict"] for one in document["contrasts"]] == ["inconclusive"]
    assert document["failures"] == []
    for cell in document["cells"]:
        assert cell["metrics"]["gpu_util_percent"] is cell["metrics"]["joules_per_item"] is None
        assert cell["nulls"]["joules_per_item"] == "GPU is lost"
        assert cell["nulls"]["soak.power_is"] == "no power was read"
        assert cell["metrics"]["soak"]["power_w"]["median"] is None
    assert "Traceback" not in told + table
    shown = " ".join(bench("telemetry", "show", run.folder).split())
    assert "GPU is lost" in shown
    bench("telemetry", "chart", run.folder, "--to", tmp_path / "c.svg")


def test_what_a_driver_refuses_is_null_with_its_words_and_not_the_run(nvml_stub: Path, tmp_path: Path) -> None:
    """Not supported, not permitted, a driver that is gone: a field each; and nobody told of as computing."""
    refused = {"gpu_util_percent": "!3", "energy_mj": "!4", "power_mw": "!9", "power_average_mw": "!9"}
    steady = nvml.steady(1.0, watts=300, gpu_util_percent=90, temperature_c=50, sm_clock_mhz=1500)
    trace = nvml.write_trace(tmp_path / "trace.csv", [row | refused for row in steady])
    env = {"LD_LIBRARY_PATH": str(nvml_stub), "NVML_STUB_TRACE": str(trace)}
    run, table, told = finished(tmp_path, env, blocks=1, telemetry="{soak: 2s}")
    document = json.loads(bench("report", run.folder, "--format", "json"))
    for cell in document["cells"]:
        nulls, soak = cell["nulls"], cell["metrics"]["soak"]
        assert nulls["gpu_util_percent"] == "Not Supported"
        assert nulls["joules_per_item"] == "Insufficient Permissions"
        assert nulls["soak.power_w"] == "Driver Not Loaded"
        assert soak["sm_clock_mhz"]["median"] == 1500, "what can be read is read"
        assert soak["gpu_memory_arm_bytes"]["median"] is None
        assert nulls["soak.gpu_memory_arm_bytes"]
    assert "Traceback" not in told + table
    shown = " ".join(bench("telemetry", "show", run.folder).split())
    for words in (
        "Not Supported: [^:]*gpu_util_percent",
        "Insufficient Permissions: energy_mj",
        "Driver Not Loaded: [^:]*power",
    ):
        assert re.search(words, shown), words


@pytest.mark.parametrize(("variables", "words"), [({"NVML_STUB_INIT": "9"}, "Driver Not Loaded"), ({}, None)])
def test_without_a_driver_or_a_library_a_run_is_silent_about_gpus(
    nvml_stub: Path, tmp_path: Path, variables: dict[str, str], words: str | None
) -> None:
    env = variables | ({"LD_LIBRARY_PATH": str(nvml_stub)} if variables else {})
    run, table, told = finished(tmp_path, env, blocks=1, telemetry="{hz: 20}")
    assert not re.search(r"gpu|nvml|nvidia|replay", table + told, re.IGNORECASE)
    assert run.run["telemetry"] == {"source": "none", "hz": 20}
    path = run.telemetry(run.blocks[0])
    assert path is not None
    assert telemetry.meta(path)["nulls"].get("gpus") == words
    if telemetry.meta(path)["nulls"].get("package_energy_uj"):
        assert [arm["soak"] for arm in run.blocks[0]["arms"].values()] == [None, None], "nothing slow is read"


def test_somebody_elses_program_on_the_arms_gpu_spoils_the_block(nvml_stub: Path, tmp_path: Path) -> None:
    trace = nvml.write_trace(tmp_path / "trace.csv", nvml.steady(1.0, watts=300, gpu_util_percent=90))
    computing = tmp_path / "programs"
    computing.write_text(f"{os.getpid()} 1048576 40\n")  # this test's own process, which is no arm's
    env = {
        "LD_LIBRARY_PATH": str(nvml_stub), "NVML_STUB_TRACE": str(trace), "NVML_STUB_PROGRAMS": str(computing),
    }  # fmt: skip
    with going(tmp_path, env, device="cuda", blocks=1, telemetry="{soak: off}") as process:
        _, told = process.communicate()
    (folder,) = (tmp_path / "runs").iterdir()
    run = store.read(folder)
    if not programs._sees_host_numbers(Path("/")):
        assert {facts["nulls"]["foreign"] for one in run.blocks for facts in one["gates"]} == {programs.ELSEWHERE}
        return
    reason = f"other program: {Path('/proc/self/comm').read_text().strip()} (process {os.getpid()}) held a"
    assert all(any(one.startswith(reason) for one in record["spoiled"]) for record in run.blocks)
    (contrast,) = json.loads(bench("report", folder, "--format", "json"))["contrasts"]
    assert contrast["verdict"] in {"invalid", "inconclusive"}, (
        "half as much work again, and nothing may be claimed of it"
    )
    assert process.returncode == (3 if contrast["verdict"] == "invalid" else 0), told
    (caveat,) = (one for one in contrast["caveats"] if one["kind"] == "disturbed")
    assert (caveat["kind"], caveat["figures"]["cpu_time"]) == ("disturbed", None), "on a GPU it is no measure of time"
    assert caveat["figures"]["disturbed"] == len(run.blocks)
    assert contrast["repeated_because"] == "other program"


# ---------------------------------------------------------------- CPU time


@pytest.mark.docker
def test_what_is_read_of_ten_seconds_work_agrees_with_the_workers_own_getrusage(tmp_path: Path) -> None:
    matrix = tmp_path / "burn.yaml"
    matrix.write_text(
        "name: burn\ncompare: launcher\nbaseline: local\n"
        "axes: {workload: [{name: stub, bytes: 262144}], framework: [stub], launcher: [local, docker], device: [cpu]}\n"
        "budget: {blocks: 1, per_comparison: 1h, total: 1h}\ntelemetry: {soak: 10s}\n"
    )
    command = [*BENCH, "run", "--matrix", str(matrix), "--out", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        absent(done.stderr)
    assert done.returncode == 0, done.stderr
    run = store.read(next((tmp_path / "runs").iterdir()))
    record = run.blocks[-1]  # the machine may have spoiled one before
    path = run.telemetry(record)
    assert path is not None
    rows = pq.read_table(path, columns=["t_ns", "arm", "cpu_ns"]).to_pandas().dropna()
    scopes = telemetry.meta(path)["scopes"]
    assert set(scopes.values()) == {"process", "cgroup"}
    for arm, outcome in record["arms"].items():
        soak = outcome["soak"]
        own = rows[(rows["arm"] == arm) & rows["t_ns"].between(soak["start_ns"], soak["end_ns"])]
        seconds = (own["t_ns"].iloc[-1] - own["t_ns"].iloc[0]) / 1e9
        counted = (own["cpu_ns"].iloc[-1] - own["cpu_ns"].iloc[0]) / 1e9 / seconds
        used = soak["cpu_ns"] / (soak["end_ns"] - soak["start_ns"])
        assert seconds > 9.5
        assert counted == pytest.approx(used, rel=0.05), scopes[arm]
        print(f"{scopes[arm]}: read {100 * counted:.2f} %, getrusage {100 * used:.2f} % of a core over {seconds:.1f} s")
