"""Workers as hardened containers, one a trial: no network, read-only root, no capability, nobody's user, one cpuset.

What is mounted: the worker's package and the data, read-only; the run's compile caches, writable; a scratch in memory.
The engine itself removes a container that has ended: a harness that is killed leaves none behind.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.errors import APIError, NotFound
from docker.types import DeviceRequest, LogConfig, Ulimit

from bench import base_image, engine_errors, images
from bench.container_engine import address, engine, one_sentence
from bench.engine_errors import LOST, explained, went_away
from bench.environment import cuda_devices, read_text
from bench.errors import EngineLost, EnvironmentUnavailable, InputError, WorkerFailed
from bench.launch import Progress, Provision, owner, worker_environment
from bench.launch.reaper import Reaper, force_away, sweep, sweep_dead
from bench.paths import staged_worker_root
from workloads.contract import STUB

if TYPE_CHECKING:
    from collections.abc import Sequence

    import docker

    from workloads.contract import Cell, Named

NOBODY = "65534:65534"
WORKER, DATA, CACHE = "/bench/worker", "/bench/data", "/bench/cache"
MEMORY_SHARE = 0.8
PIDS = 4096
SHARED_MEMORY_BYTES = 64 * 2**20  # of /dev/shm, which no workload uses: none loads data in processes of its own
SCRATCH = "size=2g,mode=1777,exec,nosuid,nodev"  # exec: what torch.compile builds there is loaded
_STDOUT = 1
_HEADER = struct.Struct(">BxxxI")


class DockerChannel:
    """A container and its attached stdin, stdout and stderr: frames of (stream, length, bytes) on one socket.

    The engine closes the container's stdin when this one attached client goes away, and the worker then ends.
    """

    scope = "cgroup"

    def __init__(self, client: docker.DockerClient, container: str, image: str) -> None:
        self._client, self._container, self.image = client, container, image
        api = client.api
        attached = api.attach_socket(container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        self._keep, self._socket = attached, _raw(attached)
        self._buffer = bytearray()
        self._began_s = int(time.time())
        api.start(container)
        state = api.inspect_container(container)["State"]
        self.pid = int(state["Pid"])

    def refuse_foreign(self) -> None:
        """The surest sign of a remote engine: its process is none of ours. Raises EnvironmentUnavailable."""
        for _ in range(10):
            if self._container in (read_text(Path(f"/proc/{self.pid}/cgroup")) or ""):
                return
            if not self._client.api.inspect_container(self._container)["State"]["Running"]:
                return  # it has ended already: nothing is known
            time.sleep(0.1)
        raise engine_errors.elsewhere(address())

    def filenos(self) -> Sequence[int]:
        """The one socket."""
        return (self._socket.fileno(),)

    def send(self, data: bytes) -> None:
        """Raises OSError when the worker is gone."""
        self._socket.sendall(data)

    def receive(self, fileno: int) -> tuple[bytes, bytes] | None:
        """Whole frames so far, split into stdout and stderr."""
        try:
            chunk = self._socket.recv(2**20)
        except ConnectionError:
            chunk = b""
        if not chunk:
            return None
        self._buffer += chunk
        out, err = bytearray(), bytearray()
        while len(self._buffer) >= _HEADER.size:
            stream, size = _HEADER.unpack_from(self._buffer)
            if len(self._buffer) < _HEADER.size + size:
                break
            payload = self._buffer[_HEADER.size : _HEADER.size + size]
            (out if stream == _STDOUT else err).extend(payload)
            del self._buffer[: _HEADER.size + size]
        return bytes(out), bytes(err)

    def fate(self) -> tuple[str, str]:
        """From the engine's events, which outlive the container. Raises EngineLost where it can no longer say."""
        code, killed_for_memory = None, False
        try:
            for _ in range(50):
                for event in self._events():
                    killed_for_memory |= event["Action"] == "oom"
                    if event["Action"] == "die":
                        code = int(event["Actor"]["Attributes"]["exitCode"])
                if code is not None:
                    break
                time.sleep(0.1)
            _still_serves()
        except (*LOST, EnvironmentUnavailable) as error:
            raise EngineLost(went_away(error)) from None
        if code is None:
            return "crashed", "closed its output and went on"
        if killed_for_memory:
            return "oom", "was killed for memory by the kernel, at its container's limit"
        if code > 128:
            return "crashed", f"crashed with signal {code - 128}"
        return "crashed", f"ended with exit status {code}"

    def _events(self) -> list[dict[str, Any]]:
        """What has happened to the container so far: `oom` and `die` alone."""
        wanted = {"container": self._container, "event": ["oom", "die"]}
        until = f"{time.time():.9f}"  # a whole second would leave out what happened in this one
        return list(
            self._client.api.events(since=self._began_s, until=until, filters=wanted, decode=True)  # type: ignore[call-overload]
        )

    def remove(self) -> None:
        """Force it away; an engine that is gone has nothing left to remove now (`sweep` does it later)."""
        with suppress(OSError):
            self._socket.close()
        self._keep.close()
        with suppress(*LOST):
            force_away(self._client.api, self._container)


class DockerLauncher:
    """One image a framework, one container a trial."""

    name = "docker"

    def __init__(self, *, run_id: str, cache: Path, data: Path | None, base: str | None = None) -> None:
        self._client, info = _own_engine()
        self.engine_version = str(info["ServerVersion"])
        self._notes = tuple(filter(None, [engine_errors.seccomp_note(info)]))
        self._run_id, self._cache, self._data, self._base = run_id, cache, data, base
        self._root, self._owner = staged_worker_root(), owner.mine()
        self._images: dict[Named, str] = {}
        cache.chmod(0o1777)
        with suppress(*LOST):
            sweep(self._client, run_id)  # what was killed between making a container and starting it
            sweep_dead(self._client)
        self._reaper = Reaper(run_id)

    def provide(self, frameworks: Sequence[Named], progress: Progress) -> dict[Named, Provision]:
        """Build the images on first use, or take the cells' own. Raises EnvironmentUnavailable, InputError."""
        with one_sentence("having the images", self._client):
            provisions = self._provisions(frameworks, progress)
        self._images = {framework: str(provision.image) for framework, provision in provisions.items()}
        return {framework: replace(provision, notes=self._notes) for framework, provision in provisions.items()}

    def _provisions(self, frameworks: Sequence[Named], progress: Progress) -> dict[Named, Provision]:
        provisions = {}
        for framework in frameworks:
            if own := framework.get("image"):
                image = self._own_image(str(own))
                version = str(framework.get("version") or "of the image")
                provisions[framework] = Provision(framework=framework.name, version=version, image=image)
            elif framework.name == STUB:  # the standard library is all that it needs
                ground = base_image.choose(self._client, base=self._base, progress=progress)
                image = ground.id
                provisions[framework] = Provision(framework=STUB, version=ground.python, image=image, base=image)
        ours = [framework for framework in frameworks if framework not in provisions]
        wanted = [(framework.name, _text(framework.get("version"))) for framework in ours]
        built = images.build_all(wanted=wanted, base=self._base, progress=progress) if wanted else []
        for framework, made in zip(ours, built, strict=True):
            provisions[framework] = Provision(
                framework=made.framework, version=made.version, image=made.id, base=made.base
            )
        return provisions

    def _own_image(self, name: str) -> str:
        try:
            return str(self._client.images.get(name).id)
        except NotFound:
            raise InputError(f'image "{name}" is not on this machine; docker pull it first') from None

    def start(self, *, cell: Cell, cpus: frozenset[int], padding: int) -> DockerChannel:
        """A fresh container. Raises WorkerFailed where it cannot start, EngineLost where no engine answers."""
        image = self._images[cell.framework]
        api = self._client.api
        try:
            container = api.create_container(
                image=image,
                command=[_python(api, image), "-m", "workloads.worker"],
                entrypoint=[],
                user=NOBODY,
                stdin_open=True,
                detach=False,
                network_disabled=True,
                working_dir="/tmp",  # noqa: S108 - the container's own scratch
                environment=worker_environment(
                    root=WORKER,
                    cache=CACHE,
                    padding=padding,
                    inherited={"HOME": "/tmp", "USER": "nobody"},  # noqa: S108
                ),
                labels={"bench.run": self._run_id, owner.LABEL: self._owner},
                host_config=self._host_config(cpus, gpu=cell.device == "cuda"),
            )["Id"]
        except APIError as error:
            words = f"the container could not be created: {explained(error, self._client)}"
            raise WorkerFailed(words, kind="crashed") from None
        except LOST as error:
            raise EngineLost(went_away(error)) from None
        try:
            channel = DockerChannel(self._client, container, image)
            channel.refuse_foreign()
            return channel
        except EnvironmentUnavailable:
            channel.remove()
            raise
        except LOST as error:
            with suppress(*LOST):
                force_away(api, container)
            if isinstance(error, APIError):
                words = f"the container could not be started: {explained(error, self._client)}"
                raise WorkerFailed(words, kind="crashed") from None
            raise EngineLost(went_away(error)) from None

    def _host_config(self, cpus: frozenset[int], *, gpu: bool) -> Any:
        mounts = [f"{self._root}:{WORKER}:ro", f"{self._cache}:{CACHE}:rw"]
        if self._data:
            mounts.append(f"{self._data}:{DATA}:ro")
        limit = int(_memory_total_bytes() * MEMORY_SHARE)
        return self._client.api.create_host_config(
            binds=mounts,
            auto_remove=True,
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            pids_limit=PIDS,
            cpuset_cpus=",".join(map(str, sorted(cpus))),
            mem_limit=limit,
            memswap_limit=limit,
            tmpfs={"/tmp": SCRATCH},  # noqa: S108 - the container's own scratch
            ipc_mode="private",
            shm_size=SHARED_MEMORY_BYTES,
            ulimits=[Ulimit(name="core", soft=0, hard=0)],  # a dump would go where the host's core_pattern says
            log_config=LogConfig(type=LogConfig.types.NONE),
            init=False,
            device_requests=_gpu_request() if gpu else None,
        )

    def data_path(self, data: Path | None, cell: Cell) -> str | None:
        """Where the data is mounted."""
        return DATA if data else None

    def close(self) -> None:
        """Remove every container that still carries this run's label."""
        with suppress(*LOST):
            sweep(self._client, self._run_id)
            self._reaper.dismiss()
        self._client.close()


def _python(api: Any, image: str) -> str:
    """The image's own framework environment, or whatever its python3 is for an image that is not ours."""
    labels = api.inspect_image(image)["Config"].get("Labels") or {}
    return "/opt/venv/bin/python" if "bench.image" in labels else "python3"


def _raw(attached: Any) -> socket.socket:
    """docker-py wraps the socket differently over http and unix."""
    return attached if isinstance(attached, socket.socket) else attached._sock


def _memory_total_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gpu_request() -> list[DeviceRequest]:
    """The first GPU by its UUID: `count=1` would be whichever the engine calls 0."""
    uuids = [device["uuid"] for device in cuda_devices()][:1]
    return [DeviceRequest(device_ids=uuids, capabilities=[["gpu"]])]


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _own_engine() -> tuple[docker.DockerClient, dict[str, Any]]:
    """This machine's engine and what it says of itself. Raises EnvironmentUnavailable, where it is another's too."""
    where = address()
    engine_errors.refuse_remote_address(where)
    client = engine()
    try:
        with one_sentence("telling what it is", client):
            info = client.info()
        engine_errors.refuse_remote(where, info, kernel=os.uname().release, memory_bytes=_memory_total_bytes())
    except EnvironmentUnavailable:
        client.close()
        raise
    return client, info


def _still_serves() -> None:
    """An engine that is being stopped kills its workers: that is no failure of theirs, and it takes nobody new then."""
    engine(timeout_s=1).close()
