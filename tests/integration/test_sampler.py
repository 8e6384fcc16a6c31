"""The sampler as a process: burns held against getrusage, a container, a stub of NVML's library, and deaths."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nvml_stub as nvml
import pyarrow.parquet as pq
import pytest
from used import used

from bench import telemetry
from bench.telemetry import Sampler, usage
from bench.telemetry.process_tree import ProcessTree

# Waits for a line, does `work`, prints its own and its children's CPU seconds, waits for a line again.
WORKER = """
import resource, subprocess, sys, threading, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
input()
{work}
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
# VmHWM and not ru_maxrss: that one keeps what the process that forked this one held.
peak = open("/proc/self/status").read().split("VmHWM:")[1].split()[0]
print(sum(one.ru_utime + one.ru_stime for one in used), int(peak) * 1024, flush=True)
input()
"""
CHILD = (
    'subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < {seconds}: pass"], check=True)'
)

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a worker; all are gone afterwards."""
    started = []

    def start(work: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER.format(work=work)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def go(worker: subprocess.Popen[str]) -> tuple[float, int]:
    """Let it work; its CPU seconds and its peak memory by its own account."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    cpu_s, peak = worker.stdout.readline().split()
    return float(cpu_s), int(peak)


def rows_of(path: Path | None) -> list[dict[str, Any]]:
    assert path is not None
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


def gone_within(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    "work",
    [
        pytest.param("burn(1.5)", id="itself"),
        pytest.param("[t.start() for t in [threading.Thread(target=burn, args=(0.7,))]]; burn(1.5)", id="threads"),
        pytest.param(CHILD.format(seconds=1.2) + "; burn(0.3)", id="one-child"),
        pytest.param("\nfor _ in range(8): " + CHILD.format(seconds=0.15), id="children-too-short-to-be-seen"),
    ],
)
def test_cpu_time_agrees_with_getrusage(tmp_path: Path, start: Start, work: str) -> None:
    worker = start(work)
    with Sampler(tmp_path, hz=20) as sampler:
        sampler.watch("arm", worker.pid, "process")
        cpu_s, _ = go(worker)
        sampler.unwatch("arm")
        readings = rows_of(sampler.flush_block("block"))
    assert sampler.fault is None
    counted = [row["cpu_ns"] for row in readings]
    assert counted == sorted(counted)
    assert counted[-1] / 1e9 == pytest.approx(cpu_s, rel=0.1)


def test_memory_of_a_worker_follows_what_it_holds(tmp_path: Path, start: Start) -> None:
    worker = start("held = bytearray(200 * 2**20); burn(0.5); del held; burn(0.5)")
    with Sampler(tmp_path, hz=20) as sampler:
        sampler.watch("arm", worker.pid, "process")
        _, peak = go(worker)
        sampler.unwatch("arm")
        path = sampler.flush_block("block")
        assert path is not None
    memory = [row["memory_bytes"] for row in rows_of(path)]
    assert max(memory) - memory[-1] == pytest.approx(200 * 2**20, rel=0.05)
    assert used(path)["arm"]["peak_memory_bytes"] == pytest.approx(peak, rel=0.02)


def test_a_living_child_counts_as_its_worker(start: Start) -> None:
    held = "import time; held = bytearray(150 * 2**20); time.sleep(2)"
    worker = start(f'subprocess.run([sys.executable, "-c", "{held}"])')
    tree = ProcessTree(worker.pid)
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    end = time.monotonic() + 10
    memory = 0
    while memory < 150 * 2**20 and time.monotonic() < end:
        time.sleep(0.05)
        memory = tree.read().memory_bytes or 0
    tree.close()
    assert memory > 150 * 2**20


def test_a_worker_that_has_exited_but_was_not_waited_for_has_no_memory(start: Start) -> None:
    worker = start("burn(0.2)")
    tree = ProcessTree(worker.pid)
    assert tree.read().memory_bytes is not None
    worker.kill()
    assert gone_within(worker.pid, 5)
    reading = tree.read()
    assert reading.memory_bytes is None
    assert reading.cpu_ns is not None
    assert reading.cpu_ns > 0
    worker.wait()
    with pytest.raises(usage.Gone):
        tree.read()
    tree.close()


def test_two_arms_and_two_blocks_are_kept_apart(tmp_path: Path, start: Start) -> None:
    busy, calm = start("burn(1)"), start("time.sleep(0.2)")
    with Sampler(tmp_path, hz=50) as sampler:
        sampler.watch("busy", busy.pid, "process")
        sampler.watch("calm", calm.pid, "process")
        go(busy)
        sampler.unwatch("busy")
        first, second = sampler.flush_block("c.000.1"), (time.sleep(0.2), sampler.flush_block("c.001.1"))[1]
        assert first == tmp_path / "telemetry" / "c.000.1.parquet"
        assert second is not None
    summary = used(first)
    assert summary["busy"]["cpu_s"] > 0.9
    assert summary["calm"]["cpu_s"] < 0.1
    assert set(used(second)) == {"calm"}
    assert min(row["t_ns"] for row in rows_of(second)) > max(row["t_ns"] for row in rows_of(first))
    facts = telemetry.meta(first)
    assert (facts["schema"], facts["source"], facts["hz"]) == (telemetry.SCHEMA, sampler.source, 50)
    assert facts["scopes"] == {"busy": "process", "calm": "process"}
    assert facts["nulls"]["busy.throttled"] == "a local worker has no control group of its own"
    assert facts["ticks"] + facts["late"] == pytest.approx(50 * facts["seconds"], abs=10)
    assert sorted(entry.name for entry in (tmp_path / "telemetry").iterdir()) == ["c.000.1.parquet", "c.001.1.parquet"]


def test_an_arm_that_dies_ends_alone(tmp_path: Path, start: Start) -> None:
    doomed, other = start("burn(9)"), start("burn(0.4)")
    with Sampler(tmp_path, hz=50) as sampler:
        sampler.watch("doomed", doomed.pid, "process")
        sampler.watch("other", other.pid, "process")
        doomed.kill()
        doomed.wait()
        go(other)
        sampler.watch("never", doomed.pid, "process")
        sampler.unwatch("doomed")
        path = sampler.flush_block("block")
        assert path is not None
    assert sampler.fault is None
    assert used(path)["other"]["cpu_s"] > 0.3
    assert telemetry.meta(path)["nulls"]["never"] == f"process {doomed.pid} is gone"


def test_the_sampler_runs_where_it_is_told(tmp_path: Path) -> None:
    cpu = max(os.sched_getaffinity(0))
    with Sampler(tmp_path, cpus={cpu}) as sampler:
        assert sampler.pid is not None
        assert os.sched_getaffinity(sampler.pid) == {cpu}


def test_a_sampler_that_is_killed_is_a_fault_and_not_an_error(tmp_path: Path) -> None:
    with Sampler(tmp_path) as sampler:
        assert sampler.pid is not None
        os.kill(sampler.pid, signal.SIGKILL)
        sampler.watch("arm", os.getpid(), "process")
        sampler.unwatch("arm")
        assert sampler.flush_block("block") is None
        assert sampler.fault == "the sampler ended with exit status -9"
        assert sampler.flush_block("next") is None
    assert list((tmp_path / "telemetry").glob("*.parquet")) == []


def test_a_sampler_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "telemetry").write_text("in the way")
    with Sampler(tmp_path) as sampler:
        assert sampler.flush_block("block") is None
    assert sampler.fault == "the sampler could not be started (File exists)"
    with Sampler(tmp_path / "other", cpus={99_999}) as sampler:
        assert sampler.flush_block("block") is None
    assert sampler.fault is not None
    assert "exit status 1" in sampler.fault


def test_an_interrupt_is_for_the_harness(tmp_path: Path) -> None:
    with Sampler(tmp_path) as sampler:
        assert sampler.pid is not None
        os.kill(sampler.pid, signal.SIGINT)
        assert os.getsid(sampler.pid) != os.getsid(0)
        sampler.watch("arm", os.getpid(), "process")
        assert sampler.flush_block("block") is not None


def test_the_sampler_ends_when_its_harness_is_killed(tmp_path: Path) -> None:
    harness = """
import os, sys, time
from pathlib import Path
from bench.telemetry import Sampler
with Sampler(Path(sys.argv[1])) as sampler:
    sampler.watch("arm", os.getpid(), "process")
    print(sampler.pid, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", harness, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        time.sleep(0.3)
        process.kill()
    assert gone_within(pid, 3)
    assert list((tmp_path / "telemetry").iterdir()) == []


# ---------------------------------------------------------------- a replayed GPU


def test_a_replayed_gpu_is_sampled_labelled_and_lost_without_harm(
    nvml_stub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {"gpu_util_percent": 42, "gpu_memory_used_bytes": 1000, "gpu_memory_reserved_bytes": 5, "sm_clock_mhz": 1980}
    lost = dict.fromkeys((*base, "power_mw", "energy_mj"), "!15")
    rows = [{"time_s": 0, **base, "memory_total_bytes": 8000, "power_mw": 250_000}, {"time_s": 0.7, **lost}]
    monkeypatch.setenv("NVML_STUB_TRACE", str(nvml.write_trace(tmp_path / "trace.csv", rows)))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(nvml_stub))
    with Sampler(tmp_path, hz=50) as sampler:
        assert sampler.source == "replay"
        assert [gpu["uuid"] for gpu in sampler.gpus] == [nvml.UUID]
        sampler.watch("arm", os.getpid(), "process")
        time.sleep(1.0)
        path = sampler.flush_block("block")
        assert path is not None
        assert sampler.fault is None
    gpu = [row for row in rows_of(path) if row["gpu"] == nvml.UUID]
    assert len(gpu) > 10
    assert {row["gpu_util_percent"] for row in gpu} == {42, None}
    assert [row["power_mw"] is None for row in gpu] == sorted(row["power_mw"] is None for row in gpu), "lost for good"
    assert {(row["energy_mj"], row["temperature_c"], row["arm"], row["cpu_ns"]) for row in gpu} == {(None,) * 4}
    facts = telemetry.meta(path)
    assert (facts["source"], facts["gpus"][0]["driver"], facts["gpus"][0]["memory_bytes"]) == (
        "replay",
        "0.0-stub",
        8000,
    )
    assert facts["nulls"][f"{nvml.UUID}.power_mw"] == "GPU is lost"
    assert facts["nulls"][f"{nvml.UUID}.energy_mj"] == "Not Supported", "the first reason is kept"
    assert set(used(path)) == {"arm"}


def test_readings_can_be_read_along_and_come_faster_in_a_soak(tmp_path: Path) -> None:
    with Sampler(tmp_path, hz=5) as sampler:
        sampler.watch("arm", os.getpid(), "process")
        (live,) = (tmp_path / "telemetry").glob(telemetry.LIVE.format("*"))
        time.sleep(2.5)
        along = live.read_text().splitlines()
        soak_ns = time.monotonic_ns()
        with sampler.soaking():
            time.sleep(1.0)
        sampler.unwatch("arm")
        path = sampler.flush_block("block")
        assert path is not None
    assert along[0] == ",".join(telemetry.COLUMNS)
    assert len(along) > 5, "on disk before the block is over"
    moments = [row["t_ns"] for row in rows_of(path)]
    assert moments == sorted(moments)
    slow, fast = sum(t < soak_ns for t in moments), sum(t >= soak_ns for t in moments)
    assert slow == pytest.approx(13, abs=3)
    assert fast == pytest.approx(1.3 * telemetry.SOAK_HZ, rel=0.2)


def test_a_replayed_gpu_is_described_and_never_run_on(nvml_stub: Path) -> None:
    script = "import json; from bench.machine import describe as e; d = e.describe(device='cpu');"
    script += "print(json.dumps([d['gpu_source'], [g['name'] for g in d['gpus']], e.cuda_devices()]))"
    told = os.environ | {"LD_LIBRARY_PATH": str(nvml_stub)}
    done = subprocess.run([sys.executable, "-c", script], env=told, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["replay", ["STUB-GPU (replay)"], []]


# ---------------------------------------------------------------- a container

# The shell's own `times` is getrusage, printed: user and system time of the shell, then of its children.
BURN = 'i=0; while [ "$i" -lt 1000000 ]; do i=$((i+1)); done; times; read forever'


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    docker = pytest.importorskip("docker")
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker engine answers: {error}")
    yield client
    client.close()


@pytest.fixture(scope="module")
def image(engine: Any) -> Iterator[Any]:
    """An image of nothing but this machine's shell and the libraries it needs."""
    shell = Path("/bin/sh")
    needed = re.findall(
        r"(/\S+) \(0x", subprocess.run(["ldd", shell], capture_output=True, text=True, check=True).stdout
    )
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", dereference=True) as tar:
        for file in [str(shell), *needed]:
            tar.add(file)
    engine.api.import_image_from_data(archive.getvalue(), repository="bench-test-sampler", tag="latest")
    image = engine.images.get("bench-test-sampler:latest")
    yield image
    engine.images.remove(image.id, force=True)


@pytest.fixture
def container(engine: Any, image: Any) -> Iterator[Any]:
    container = engine.containers.create(
        image.id, ["/bin/sh", "-c", BURN], stdin_open=True, network_mode="none", mem_limit="256m"
    )
    container.start()
    container.reload()
    yield container
    container.remove(force=True)


@pytest.mark.docker
def test_a_container_is_read_from_its_control_group(tmp_path: Path, container: Any) -> None:
    with Sampler(tmp_path, hz=20) as sampler:
        sampler.watch("arm", container.attrs["State"]["Pid"], "cgroup")
        end = time.monotonic() + 60
        while b"s" not in container.logs() and time.monotonic() < end:
            time.sleep(0.1)
        sampler.unwatch("arm")
        path = sampler.flush_block("block")
        assert path is not None
    own = [int(minutes) * 60 + float(s) for minutes, s in re.findall(rb"(\d+)m([\d.]+)s", container.logs())]
    last = [row for row in rows_of(path) if row["arm"] == "arm"][-1]
    assert last["cpu_ns"] / 1e9 == pytest.approx(sum(own), rel=0.1)
    assert 0 < last["memory_bytes"] < 256 * 2**20
    assert last["involuntary_switches"] is not None
    facts = telemetry.meta(path)
    for field in usage.Reading._fields:  # each is there or says why it is not
        assert (last[field] is None) == (f"arm.{field}" in facts["nulls"]), field


@pytest.mark.docker
def test_a_container_that_exits_ends_its_arm_alone(tmp_path: Path, container: Any) -> None:
    with Sampler(tmp_path, hz=50) as sampler:
        sampler.watch("arm", container.attrs["State"]["Pid"], "cgroup")
        sampler.watch("other", os.getpid(), "process")
        container.kill()
        container.wait()
        time.sleep(0.2)
        path = sampler.flush_block("block")
        assert path is not None
        assert sampler.fault is None
    summary = used(path)
    assert summary["arm"]["samples"] < summary["other"]["samples"]
