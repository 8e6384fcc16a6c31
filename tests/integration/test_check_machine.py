"""`bench check` on the machine that runs the tests, disturbed by what a test starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.machine import cpus
from bench.machine.check.findings import WORST_FIRST, Machine
from bench.machine.check.probes import docker

NAME, SECRET = "burner-of-cpus", "an-argument-kept-to-itself"


def bench(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=cwd, env={**os.environ, "COLUMNS": "80", **variables},
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in json.loads(done.stdout)}


@pytest.fixture
def burners(tmp_path: Path) -> Iterator[dict[int, subprocess.Popen[bytes]]]:
    """By CPU, a loop that keeps it busy under a name of its own: on every one, so that arms find no calm one."""
    program = tmp_path / "folder" / NAME
    program.parent.mkdir()
    program.symlink_to(shutil.which("sh") or "/bin/sh")
    usable = sorted(os.sched_getaffinity(0))
    processes = {cpu: subprocess.Popen([program, "-c", "while :; do :; done", SECRET]) for cpu in usable}
    for cpu, process in processes.items():
        os.sched_setaffinity(process.pid, {cpu})
    try:
        time.sleep(0.5)
        if any(ran_s(process.pid) < 0.1 for process in processes.values()):
            pytest.skip("neighbours keep a loop off its CPU: there is nothing to find")
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def ran_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def test_the_machine_of_the_tests_is_told_as_json(tmp_path: Path) -> None:
    done = bench("check", "--format", "json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = findings(done)
    assert {"busy", "quota", "memory", "timer", "governor", "docker"} <= found.keys()
    for one in found.values():
        assert one.keys() == {"name", "level", "found", "why", "cure"}
        assert one["level"] in WORST_FIRST
        assert (one["cure"] is None) == (one["level"] == "ok")
    assert found["timer"]["level"] != "unknown"
    assert list(tmp_path.iterdir()) == []


def test_strict_exits_1_exactly_where_something_fails(tmp_path: Path) -> None:
    done = bench("check", "--strict", "--format", "json", cwd=tmp_path)
    failing = [one for one in findings(done).values() if one["level"] == "fail"]
    assert done.returncode == (1 if failing else 0)
    assert len(done.stderr.splitlines()) == (1 if failing else 0)
    assert all(f"{one['name']}: {one['found']}" in done.stderr for one in failing)


def test_a_loop_on_the_arms_cpu_is_found_and_named_without_path_and_arguments(
    tmp_path: Path, burners: dict[int, subprocess.Popen[bytes]]
) -> None:
    done = bench("check", "--strict", "--format", "json", cwd=tmp_path)
    busy = findings(done)["busy"]
    assert done.returncode == 1
    assert busy["level"] == "fail"
    assert NAME in busy["found"]
    cpu = int(busy["found"].split()[1])
    if len(burners) > 1:
        assert str(burners[cpu].pid) in busy["cure"]
    for text in (done.stdout, done.stderr):
        assert SECRET not in text
        assert "/folder/" not in text


def test_the_cure_of_a_busy_cpu_cures_it(tmp_path: Path, burners: dict[int, subprocess.Popen[bytes]]) -> None:
    if len(burners) < 2:
        pytest.skip("one CPU: there is nowhere to move a program to")
    busy = findings(bench("check", "--format", "json", cwd=tmp_path))["busy"]
    cpu = int(busy["found"].split()[1])
    pid = burners[cpu].pid
    assert str(pid) in busy["cure"]
    (own,) = (f"sudo taskset -acp {to} {pid}" for to in [busy["cure"].partition("-acp ")[2].split()[0]])
    subprocess.run(own.split()[1:], check=True, capture_output=True)
    assert cpu not in os.sched_getaffinity(pid)


def test_beside_a_loop_on_one_cpu_the_arms_are_on_another_where_nothing_is_to_be_cured(
    tmp_path: Path, burners: dict[int, subprocess.Popen[bytes]]
) -> None:
    if len(burners) < 2:
        pytest.skip("one CPU: there is no other")
    calm = min(burners)
    burners[calm].kill()
    for _ in range(3):  # what else runs on a shared machine may be busier for once
        cores = findings(bench("check", "--format", "json", cwd=tmp_path))["cores"]
        if cores["found"].startswith(f"arms on CPU {calm},"):
            return
        if cpus.busy_shares(0.5)[calm] > 0.5:
            pytest.skip("neighbours keep that CPU busy too")
    raise AssertionError(cores)


def test_a_run_that_is_strict_refuses_before_anything_is_made(
    tmp_path: Path, burners: dict[int, subprocess.Popen[bytes]]
) -> None:
    cache = tmp_path / "cache"
    done = bench("run", "--matrix", "quick", "--strict", cwd=tmp_path, BENCH_CACHE=str(cache))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "this machine would spoil a measurement (" in line
    assert NAME in line
    assert "bench check" in line
    assert not (tmp_path / "runs").exists()
    assert not any(path.is_file() for path in cache.rglob("*"))


def test_the_table_fits_80_columns_but_for_commands(tmp_path: Path) -> None:
    done = bench("check", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    commands = [line for line in done.stdout.splitlines() if line.startswith("  ") and line[2:3] != " "]
    assert max(len(line) for line in done.stdout.splitlines() if line not in commands) <= 80
    assert "note" in done.stdout.splitlines()[-1]


def test_more_threads_than_cpus_are_bad_input(tmp_path: Path) -> None:
    done = bench("check", "--threads", "4096", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "threads: 4096 is not to be had here" in done.stderr


def test_a_worker_of_another_run_fails(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)", "-m", "workloads.worker"]
    with subprocess.Popen(command) as worker:
        time.sleep(0.2)
        found = findings(bench("check", "--format", "json", cwd=tmp_path))["other_runs"]
        worker.kill()
    assert found["level"] == "fail"


@pytest.fixture
def half_a_cpu() -> Iterator[Path]:
    """A control group with a quota, where this user may make one."""
    hierarchies = {"cpu.max": Path("/sys/fs/cgroup"), "cpu.cfs_quota_us": Path("/sys/fs/cgroup/cpu")}
    for file, top in hierarchies.items():
        group = top / f"bench-test-{os.getpid()}"
        if not (top / "cgroup.procs").exists():
            continue
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / file).write_text("50000")
            yield group
            return
        except OSError:
            continue  # the controller is not given to this group
        finally:
            group.rmdir()
    pytest.skip("this user may not make a control group with a CPU quota")


def test_a_quota_of_this_process_is_found_and_its_cure_lifts_it(tmp_path: Path, half_a_cpu: Path) -> None:
    script = f'echo $$ > {half_a_cpu}/cgroup.procs && exec "$0" -m bench check --format json'
    inside = ["sh", "-c", script, sys.executable]
    found = findings(subprocess.run(inside, cwd=tmp_path, capture_output=True, text=True, check=True))["quota"]
    assert (found["level"], found["found"][:9]) == ("fail", "0.50 CPUs")
    assert str(half_a_cpu) in found["cure"]
    subprocess.run(["sh", "-c", found["cure"].replace("sudo ", "")], check=True, capture_output=True)
    cured = findings(subprocess.run(inside, cwd=tmp_path, capture_output=True, text=True, check=True))["quota"]
    assert cured["level"] == "ok"


def test_no_engine_is_a_note_and_not_a_failure(tmp_path: Path) -> None:
    found = findings(bench("check", "--format", "json", cwd=tmp_path, DOCKER_HOST=f"unix://{tmp_path}/none.sock"))
    assert found["docker"]["level"] == "note"
    assert "--launcher local" in found["docker"]["cure"]


@pytest.mark.docker
def test_an_engine_that_answers_is_ok() -> None:
    assert docker(Machine(root=Path("/"), arms=frozenset({0}), control=frozenset({0}))).level == "ok"
