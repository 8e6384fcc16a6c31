"""A worker in its container: what the wall lets through, seen from the engine and from inside, and how it dies."""

from __future__ import annotations

import gc
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from docker.errors import DockerException, NotFound

from bench.engine import owner, podman, sweep
from bench.engine.client import read_build
from bench.errors import BenchError, EnvironmentUnavailable, ProcessRefused, StorageFailed, WorkerFailed
from bench.launch import data_place
from bench.launch import docker as docker_launcher
from bench.launch.cache import compile_cache
from bench.launch.docker import DockerChannel, DockerLauncher
from bench.launch.group import Group
from bench.matrix.need import Need
from bench.provision import image as images
from bench.provision.locks import locked_version
from workloads.contract import Cell, Named
from workloads.linear_regression import spec

# docker-py leaves the socket of a streamed answer to the garbage collector.
pytestmark = [
    pytest.mark.docker,
    pytest.mark.framework,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]
CPU = max(os.sched_getaffinity(0))
RUN = f"test-{os.getpid()}"
CELL = Cell(
    workload=Named.of("linear_regression", spec.parameters({"preset": "classic", "evaluate_steps": 5})),
    framework=Named("pytorch"),
    batch_size=5,
    device="cpu",
)
# Runs inside, as the worker's user; each entry is what happened, or the error's name.
PROBE = """
import json, os, socket
def attempt(action):
    try:
        return action() or "done"
    except OSError as error:
        return type(error).__name__ if error.errno is None else __import__("errno").errorcode[error.errno]
def write(path):
    with open(path, "w") as file:
        file.write("x")
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
print(json.dumps({
    "uid": [os.getuid(), os.getgid()], "groups": os.getgroups(), "cpus": sorted(os.sched_getaffinity(0)),
    "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "interfaces": sorted(os.listdir("/sys/class/net")),
    "outside": attempt(lambda: socket.create_connection(("192.0.2.1", 80), timeout=3)),
    "writes": {path: attempt(lambda: write(path + "/probe")) for path in
               ("/", "/usr", "/opt/venv", "/bench/worker/workloads", "/bench/data", "/tmp", "/bench/cache")},
    "become_root": attempt(lambda: os.setuid(0)), "socket": os.path.exists("/var/run/docker.sock"),
    "home": os.environ["HOME"], "environment": sorted(os.environ),
}))
"""


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerLauncher]:
    folder = tmp_path_factory.mktemp("shared")
    for path in (folder, folder / "cache", folder / "data"):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
    (folder / "data" / "given").write_text("read me")
    launcher = DockerLauncher(run_id=RUN, cache=folder / "cache", data=folder / "data")
    launcher.provide([Need.of(CELL)], print)
    yield launcher
    launcher.close()
    gc.collect()


@pytest.fixture
def group() -> Iterator[Group]:
    with Group() as group:
        yield group


@pytest.fixture
def channel(launcher: DockerLauncher, group: Group, monkeypatch: pytest.MonkeyPatch) -> DockerChannel:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "must stay here")
    channel = launcher.start(cell=CELL, cpus=frozenset({CPU}), padding=100)
    group.add("pytorch", channel)
    return channel


def open_(group: Group) -> dict[str, Any]:
    return group.ask(
        "pytorch", "open", limit_s=120, cell=CELL.to_json(), framework="pytorch", seed=0, data=None, cpus=[CPU]
    )


def ours(launcher: DockerLauncher) -> list[str]:
    found = launcher.client.api.containers(all=True, filters={"label": f"bench.run={RUN}"})
    return [container["Id"] for container in found]


def inside(launcher: DockerLauncher, container: str, *command: str) -> str:
    api = launcher.client.api
    return str(api.exec_start(api.exec_create(container, list(command))["Id"]).decode())


def test_the_engine_has_been_told_to_wall_the_container_off(launcher: DockerLauncher, channel: DockerChannel) -> None:
    (container,) = ours(launcher)
    told = launcher.client.api.inspect_container(container)
    host, config = told["HostConfig"], told["Config"]
    assert host["NetworkMode"] == "none"
    assert config["NetworkDisabled"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert not host["Privileged"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert config["User"] == "65534:65534"
    assert host["CpusetCpus"] == str(CPU)
    assert (host["CpuQuota"], host["NanoCpus"]) == (0, 0), "a cpuset, never a quota"
    assert 0 < host["Memory"] == host["MemorySwap"] < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert host["PidsLimit"] > 0
    assert config["Labels"]["bench.run"] == RUN
    assert {(mount["Destination"], mount["RW"]) for mount in told["Mounts"]} == {
        ("/bench/worker", False), ("/bench/data", False), ("/bench/cache", True),
    }  # fmt: skip
    assert told["Image"] == channel.image
    assert not config["Tty"]


def test_from_inside_nothing_can_be_written_reached_or_become(launcher: DockerLauncher, channel: DockerChannel) -> None:
    (container,) = ours(launcher)
    seen = json.loads(inside(launcher, container, "/opt/venv/bin/python", "-c", PROBE))
    assert seen["uid"] == [65534, 65534]
    assert 0 not in seen["groups"]
    assert seen["cpus"] == [CPU]
    assert seen["capabilities"] == 0
    assert seen["no_new_privileges"] == "1"
    assert seen["interfaces"] == ["lo"]
    assert seen["outside"] == "ENETUNREACH"
    assert seen["become_root"] == "EPERM"
    assert not seen["socket"]
    assert seen["home"] == "/tmp"
    assert "AWS_SECRET_ACCESS_KEY" not in seen["environment"]
    writable = {path for path, happened in seen["writes"].items() if happened == "done"}
    assert writable == {"/tmp", "/bench/cache"}
    assert inside(launcher, container, "cat", "/bench/data/given") == "read me"


def test_a_contained_worker_answers_and_says_where_it_runs(channel: DockerChannel, group: Group) -> None:
    opened = open_(group)
    assert opened["effective"]["uid"] == 65534
    assert opened["effective"]["cpus"] == [CPU]
    assert opened["parameter_count"] == 2
    measured = group.ask("pytorch", "measure", limit_s=60, steps=20, settle=2, sync="step")
    assert len(measured["step_ns"]) == 20
    assert abs(measured["end_ns"] - time.monotonic_ns()) < 60e9, "the same CLOCK_MONOTONIC"
    assert group.ask("pytorch", "close", limit_s=30)["max_rss_bytes"] > 2**20


def test_a_worker_that_is_killed_for_memory_says_so(
    launcher: DockerLauncher, channel: DockerChannel, group: Group
) -> None:
    (container,) = ours(launcher)
    launcher.client.api.update_container(container, mem_limit=48 * 2**20, memswap_limit=48 * 2**20)
    with pytest.raises(WorkerFailed, match="was killed for memory by the kernel, at its container's limit") as caught:
        open_(group)
    assert caught.value.kind == "oom"


def test_a_worker_that_is_killed_by_hand_crashed_with_its_signal(
    launcher: DockerLauncher, channel: DockerChannel, group: Group
) -> None:
    open_(group)
    launcher.client.api.kill(ours(launcher)[0])
    with pytest.raises(WorkerFailed, match="crashed with signal 9") as caught:
        group.ask("pytorch", "warm", limit_s=30, steps=1)
    assert caught.value.kind == "crashed"


def test_a_worker_that_has_ended_says_with_which_status(channel: DockerChannel, group: Group) -> None:
    channel.send(b"no question\n")
    with pytest.raises(WorkerFailed, match="not a JSON line"):
        open_(group)
    with pytest.raises(WorkerFailed, match="ended with exit status 1"):
        open_(group)


def test_a_container_whose_client_goes_away_ends_and_is_removed_by_itself(
    launcher: DockerLauncher, channel: DockerChannel
) -> None:
    assert len(ours(launcher)) == 1
    channel._socket.close()
    channel._keep.close()
    deadline = time.monotonic() + 10
    while ours(launcher):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_removing_a_worker_removes_its_container_at_once(launcher: DockerLauncher, group: Group) -> None:
    for _ in range(2):
        group.add("pytorch", launcher.start(cell=CELL, cpus=frozenset({CPU}), padding=0))
        assert len(ours(launcher)) == 1
        group.drop("pytorch")
        assert ours(launcher) == []


@pytest.mark.parametrize(
    ("module", "name", "failure", "said"),
    [
        (podman, "refuse_gpu", EnvironmentUnavailable("attaches none"), "attaches none"),
        (podman, "engine_version", DockerException("went away"), "failed while telling its version"),
        (docker_launcher, "staged_worker_root", StorageFailed("the cache is full"), "the cache is full"),
        (docker_launcher, "Reaper", ProcessRefused("no process starts"), "no process starts"),
        (docker_launcher, "sweep_dead", KeyboardInterrupt("now"), "now"),
    ],
)
def test_a_launcher_that_cannot_begin_closes_its_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, failure: BaseException, said: str
) -> None:
    closed: list[bool] = []
    real = docker_launcher._own_engine

    def own_engine() -> Any:
        client, info = real()
        close = client.close
        monkeypatch.setattr(client, "close", lambda: (closed.append(True), close()))
        return client, info

    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(docker_launcher, "_own_engine", own_engine)
    monkeypatch.setattr(module, name, fail)
    with pytest.raises((BenchError, KeyboardInterrupt), match=said):
        DockerLauncher(run_id=f"{RUN}-begins", cache=tmp_path, data=None, gpu=True)
    assert closed == [True]


def test_closing_the_launcher_removes_what_its_groups_left(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    own = DockerLauncher(run_id=f"{RUN}-own", cache=tmp_path, data=None)
    own.provide([Need.of(CELL)], print)
    channel = own.start(cell=CELL, cpus=frozenset({CPU}), padding=0)
    api = own.client.api
    label = {"label": f"bench.run={RUN}-own"}
    assert len(api.containers(all=True, filters=label)) == 1
    again = DockerLauncher(run_id=f"{RUN}-own", cache=tmp_path, data=None)
    assert api.containers(all=True, filters=label) == [], "the next harness of this run sweeps first"
    channel.remove()
    for launcher in (own, again):
        launcher.close()


def test_the_next_run_and_clean_remove_what_a_dead_harness_left_and_nothing_else(tmp_path: Path) -> None:
    """Made and never started, as where the engine went away between the two: no reaper of its own is left."""
    tmp_path.chmod(0o755)
    machine, boot, namespace, pid, started = owner.mine().split("/")
    dead = "/".join((machine, boot, namespace, pid, str(int(started) + 1)))
    foreign = "/".join(("another-machine", boot, namespace, pid, started))

    def left(api: Any) -> set[str]:
        found = api.containers(all=True, filters={"label": f"bench.run={RUN}-left"})
        return {container["Labels"][owner.LABEL] for container in found}

    def leave(api: Any, image: str) -> None:
        for who in (dead, foreign, owner.mine()):
            api.create_container(image, ["true"], labels={"bench.run": f"{RUN}-left", owner.LABEL: who})

    own = DockerLauncher(run_id=f"{RUN}-sweeps", cache=tmp_path, data=None)
    api = own.client.api
    image = own.provide([Need.of(CELL)], print)[Need.of(CELL)].image
    try:
        leave(api, str(image))
        again = DockerLauncher(run_id=f"{RUN}-again", cache=tmp_path, data=None)
        again.close()
        assert left(api) == {foreign, owner.mine()}
        leave(api, str(image))
        done = subprocess.run([sys.executable, "-m", "bench", "clean"], capture_output=True, text=True, check=True)
        assert f"of run {RUN}-left, whose harness has ended" in done.stdout
        assert left(api) == {foreign, owner.mine()}
    finally:
        sweep.sweep(own.client, f"{RUN}-left")
        own.close()


def test_clean_takes_no_image_while_a_run_may_need_it(launcher: DockerLauncher, tmp_path: Path) -> None:
    image = launcher.provide([Need.of(CELL)], print)[Need.of(CELL)].image
    command = [sys.executable, "-m", "bench", "clean", "--images"]
    with compile_cache(f"{RUN}-lives"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert f"could not remove image bench-pytorch:{locked_version('pytorch')}-cpu" in done.stdout
    assert f"run {RUN}-lives may need it; wait for its end" in done.stdout
    assert "\nremoved image" not in f"\n{done.stdout}"
    assert launcher.client.images.get(str(image))


def test_one_volume_that_is_in_use_does_not_end_the_sweep(launcher: DockerLauncher) -> None:
    api = launcher.client.api
    image = str(launcher.provide([Need.of(CELL)], print)[Need.of(CELL)].image)
    machine, boot, namespace, pid, started = owner.mine().split("/")
    labels = {owner.LABEL: "/".join((machine, boot, namespace, pid, str(int(started) + 1)))}
    volumes = [f"{RUN}-used", f"{RUN}-unused"]
    for volume in volumes:
        api.create_volume(volume, labels=labels)
    config = api.create_host_config(binds=[f"{volumes[0]}:/data:rw"])
    holder = api.create_container(image, ["true"], host_config=config)["Id"]
    try:
        done = subprocess.run([sys.executable, "-m", "bench", "clean"], capture_output=True, text=True, check=False)
        assert done.returncode == 3
        assert f"could not remove volume {volumes[0]}" in done.stdout
        assert f"removed volume {volumes[1]}" in done.stdout
    finally:
        api.remove_container(holder, force=True)
        for volume in volumes:
            with suppress(NotFound):
                api.remove_volume(volume)


def test_a_step_that_a_killed_build_of_the_data_left_is_not_the_frameworks_image(launcher: DockerLauncher) -> None:
    """The newest image with all its labels, and with a run's data in it."""
    client = launcher.client
    image = str(launcher.provide([Need.of(CELL)], print)[Need.of(CELL)].image)
    labels = " ".join(f'"{name}"="{value}"' for name, value in (launcher.labels | data_place.BAKED).items())
    recipe = data_place._DOCKERFILE.format(labels=labels).replace("COPY data/ /bench/data/", "RUN true")
    built = client.api.build(
        fileobj=io.BytesIO(recipe.partition("USER 65534")[0].encode()), buildargs={"BASE": image}, rm=True, decode=True
    )
    leaf = read_build(built, what="a leaf")
    try:
        assert client.images.get(leaf).labels["bench.image"] == "pytorch"
        assert images.build(framework="pytorch", version=None, progress=print).id == image
        assert leaf not in {one.id for one in images.list_images()}
    finally:
        client.api.remove_image(leaf, force=True)


def test_an_image_that_is_absent_is_one_sentence(launcher: DockerLauncher) -> None:
    absent = Named.of("pytorch", {"image": "bench-absent:none"})
    with pytest.raises(BenchError, match="the image bench-absent:none is neither on this engine nor"):
        launcher.provide([Need(absent)], print)


def test_an_image_without_the_framework_is_a_failure_with_its_log(
    launcher: DockerLauncher, channel: DockerChannel, group: Group
) -> None:
    """The image of the other framework: its worker cannot import this one."""
    cell = Cell.from_json({**CELL.to_json(), "framework": {"name": "tensorflow"}})
    with pytest.raises(WorkerFailed, match="ModuleNotFoundError: No module named") as caught:
        group.ask(
            "pytorch", "open", limit_s=60, cell=cell.to_json(), framework="tensorflow", seed=0, data=None, cpus=[CPU]
        )
    assert "Traceback" in caught.value.log
