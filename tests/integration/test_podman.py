"""Podman, which answers as Docker: a whole run in its containers, how its workers die, and what it cannot give."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from docker.errors import DockerException
from podman_engine import PodmanEngine
from requests.exceptions import RequestException
from test_containers import PROBE

from bench import launch
from bench.engine import podman
from bench.engine.client import engine
from bench.errors import EnvironmentUnavailable, WorkerFailed
from bench.launch import docker as launching
from bench.launch.docker import DockerLauncher
from bench.launch.group import Group
from bench.launch.provide import provide_all
from bench.matrix import matrix
from bench.matrix.need import Need
from bench.provision import base as base_image
from bench.store import read
from workloads.contract import Cell, Named

if TYPE_CHECKING:
    import docker

# docker-py leaves the socket of a streamed answer to the garbage collector.
pytestmark = [
    pytest.mark.docker,  # the base image comes from there
    pytest.mark.podman,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]
MATRIX = """\
name: podman
axes:
  workload: [{name: stub, bytes: 65536}]
  framework: [stub, {name: stub, work: 2}]
budget: {blocks: 2, total: 20s}
"""
CPU = max(os.sched_getaffinity(0))
RUN = f"test-podman-{os.getpid()}"
GONE_S = 10  # after a kill -9


@pytest.fixture(scope="module")
def base() -> str:
    """The base image, by the name that it has on both engines."""
    with contextlib.closing(engine()) as client:
        return base_image.choose(client, base=None, progress=print).tag


@pytest.fixture(scope="module")
def service(base: str) -> Iterator[PodmanEngine]:
    """Podman with the base image; it is what every launcher and `bench` finds meanwhile."""
    with PodmanEngine() as service, pytest.MonkeyPatch.context() as patch:
        service.take(base)
        patch.setenv("DOCKER_HOST", service.address)
        yield service


@pytest.fixture
def client(service: PodmanEngine) -> Iterator[docker.DockerClient]:
    client = service.client()
    yield client
    client.close()


@pytest.fixture
def launcher(service: PodmanEngine, base: str, tmp_path: Path) -> Iterator[DockerLauncher]:
    tmp_path.chmod(0o755)
    launcher = DockerLauncher(run_id=RUN, cache=tmp_path, data=None, base=base)
    launcher.provide([Need(Named("stub"))], print)
    yield launcher
    launcher.close()


@pytest.fixture
def group() -> Iterator[Group]:
    with Group() as group:
        yield group


def cell(size: int = 64) -> Cell:
    return Cell(workload=Named.of("stub", {"bytes": size}), framework=Named("stub"), device="cpu")


def open_(group: Group, wanted: Cell) -> Any:
    asked = wanted.to_json()
    return group.ask("stub", "open", limit_s=60, cell=asked, framework="stub", seed=0, data=None, cpus=[CPU])


def left(client: docker.DockerClient, run: str) -> list[str]:
    return [one["Id"] for one in client.api.containers(all=True, filters={"label": f"bench.run={run}"})]


def bench(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_run_leaves_no_container_and_goes_on_to_its_end(
    client: docker.DockerClient, base: str, tmp_path: Path
) -> None:
    (tmp_path / "m.yaml").write_text(MATRIX)
    out = tmp_path / "runs"
    killed = bench("run", "--matrix", tmp_path / "m.yaml", "--launcher", "docker", "--base", base, "--out", out)
    deadline = time.monotonic() + 60
    while not (out.is_dir() and (runs := list(out.iterdir())) and len(left(client, runs[0].name)) == 2):
        assert time.monotonic() < deadline
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (folder,) = out.iterdir()
    deadline = time.monotonic() + GONE_S
    while left(client, folder.name):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    resumed = bench("run", "--resume", folder)
    _, said = resumed.communicate()
    assert "Traceback" not in said
    assert left(client, folder.name) == []
    stored = read(folder)
    assert stored.blocks
    for block in stored.blocks:
        assert {arm["status"] for arm in block["arms"].values()} == {"measured"}, block["arms"]
        assert all(gate["arms"]["stub"]["waited_s"] is not None for gate in block["gates"]), "its control group is read"
    if not any(block["spoiled"] for block in stored.blocks):  # by whatever else this machine does
        assert resumed.returncode == 0, said
    shown, _ = bench("report", folder, "--format", "json").communicate()
    named = json.loads(shown)["environment"]["docker"]
    assert named == podman.engine_version(client)
    assert named.startswith("podman ")


def test_from_inside_nothing_can_be_written_reached_or_become(
    launcher: DockerLauncher, client: docker.DockerClient, group: Group
) -> None:
    group.add("stub", launcher.start(cell=cell(), cpus=frozenset({CPU}), padding=0))
    (container,) = left(client, RUN)
    started = client.api.exec_create(container, ["python3", "-c", PROBE])["Id"]
    seen = json.loads(client.api.exec_start(started))
    assert seen["uid"] == [65534, 65534]
    assert 0 not in seen["groups"]
    assert seen["cpus"] == [CPU]
    assert seen["capabilities"] == 0
    assert seen["no_new_privileges"] == "1"
    assert seen["interfaces"] == ["lo"]
    assert seen["outside"] == "ENETUNREACH"
    assert seen["become_root"] == "EPERM"
    assert {path for path, happened in seen["writes"].items() if happened == "done"} == {"/tmp", "/bench/cache"}
    host = client.api.inspect_container(container)["HostConfig"]
    assert host["PidsLimit"] == launching.PIDS
    assert 0 < host["Memory"] == host["MemorySwap"]


def test_a_worker_that_is_killed_by_hand_crashed_with_its_signal(
    launcher: DockerLauncher, client: docker.DockerClient, group: Group
) -> None:
    group.add("stub", launcher.start(cell=cell(), cpus=frozenset({CPU}), padding=0))
    open_(group, cell())
    client.api.kill(left(client, RUN)[0])
    with pytest.raises(WorkerFailed, match="crashed with signal 9") as caught:
        group.ask("stub", "warm", limit_s=30, steps=1)
    assert caught.value.kind == "crashed"


def test_a_worker_that_is_killed_for_memory_says_so_as_far_as_it_can_be_known(
    launcher: DockerLauncher, client: docker.DockerClient, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its container is filled from within, by what no kill sets free: files in memory."""
    monkeypatch.setattr(launching, "_memory_total_bytes", lambda: 40 * 2**20)
    group.add("stub", launcher.start(cell=cell(), cpus=frozenset({CPU}), padding=0))
    open_(group, cell())
    fill = client.api.exec_create(left(client, RUN)[0], ["dd", "if=/dev/zero", "of=/tmp/filled", "bs=1M", "count=99"])
    with contextlib.suppress(DockerException, RequestException):
        client.api.exec_start(fill["Id"])
    with pytest.raises(WorkerFailed, match="was killed while the kernel was killing for want of memory") as caught:
        group.ask("stub", "warm", limit_s=30, steps=1)
    assert caught.value.kind == "oom"


def test_a_gpu_is_refused_before_anything_starts_with_the_reason(
    client: docker.DockerClient, service: PodmanEngine, tmp_path: Path
) -> None:
    (tmp_path / "m.yaml").write_text(MATRIX)
    wanted = matrix.load(str(tmp_path / "m.yaml")).with_options(device="cuda")
    place = launch.Place(run_id=RUN, cache=tmp_path, data=None, base=None)
    with pytest.raises(
        EnvironmentUnavailable, match="accepts a request for a GPU and attaches none; point DOCKER_HOST"
    ):
        provide_all(["docker"], wanted, place, SimpleNamespace(say=print))  # type: ignore[arg-type]
    assert left(client, RUN) == []
