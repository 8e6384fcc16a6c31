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
from typing import TYPE_CHECKING, Any

import requests.exceptions
from docker.errors import APIError, DockerException
from docker.types import LogConfig

from bench import base_image, foreign_image, images
from bench.container_engine import engine
from bench.environment import gpu_for
from bench.errors import EngineLost, InputError, WorkerFailed
from bench.launch import GpuRequest, Need, Progress, Provision, owner, podman, worker_environment
from bench.launch import gpu as gpus
from bench.launch.reaper import Reaper, force_away, sweep, sweep_dead
from bench.paths import staged_worker_root
from workloads.contract import STUB

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import docker

    from workloads.contract import Cell

NOBODY = "65534:65534"
WORKER, DATA, CACHE = "/bench/worker", "/bench/data", "/bench/cache"
MEMORY_SHARE = 0.8
PIDS = 4096
SCRATCH = "size=2g,mode=1777,exec,nosuid,nodev"  # exec: what torch.compile builds there is loaded
_STDOUT = 1
_HEADER = struct.Struct(">BxxxI")

_LOST = (DockerException, requests.exceptions.RequestException, OSError)


class Ends:
    """How a container ended, from the engine's events, which outlive it."""

    out_of_memory = "was killed for memory by the kernel, at its container's limit"

    def __init__(self, api: Any, container: str) -> None:
        """Before it starts."""
        self._api, self._container, self._began_s = api, container, int(time.time())

    def events(self) -> list[dict[str, Any]]:
        """What has happened to the container so far: `oom` and `die` alone."""
        wanted = {"container": self._container, "event": ["oom", "die"]}
        until = f"{time.time():.9f}"  # a whole second would leave out what happened in this one
        return list(self._api.events(since=self._began_s, until=until, filters=wanted, decode=True))


class DockerChannel:
    """A container and its attached stdin, stdout and stderr: frames of (stream, length, bytes) on one socket.

    The engine closes the container's stdin when this one attached client goes away, and the worker then ends.
    """

    scope = "cgroup"

    def __init__(
        self, client: docker.DockerClient, container: str, image: str, ends: Ends | podman.Ends,
        gpu: GpuRequest | None = None,
    ) -> None:  # fmt: skip
        self._client, self._container, self.image, self.gpu = client, container, image, gpu
        api = client.api
        attached = api.attach_socket(container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        self._keep, self._socket = attached, _raw(attached)
        self._buffer = bytearray()
        self._ends = ends
        api.start(container)
        state = api.inspect_container(container)["State"]
        self.pid = int(state["Pid"])

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
                for event in self._ends.events():
                    killed_for_memory |= event["Action"] == "oom"
                    if event["Action"] == "die":
                        code = int(event["Actor"]["Attributes"]["exitCode"])
                if code is not None:
                    break
                time.sleep(0.1)
        except _LOST as error:
            raise EngineLost(f"the Docker engine went away: {_line(error)}") from None
        if code is None:
            return "crashed", "closed its output and went on"
        if killed_for_memory:
            return "oom", self._ends.out_of_memory
        if code > 128:
            return "crashed", f"crashed with signal {code - 128}"
        return "crashed", f"ended with exit status {code}"

    def remove(self) -> None:
        """Force it away; an engine that is gone has nothing left to remove now (`sweep` does it later)."""
        with suppress(OSError):
            self._socket.close()
        self._keep.close()
        with suppress(*_LOST):
            force_away(self._client.api, self._container)


class DockerLauncher:
    """One image a framework, one container a trial."""

    name = "docker"

    def __init__(
        self, *, run_id: str, cache: Path, data: Path | None, base: str | None = None, gpu: bool = False
    ) -> None:
        """Raises EnvironmentUnavailable: no engine; InputError: `gpu`, which is wanted, is not to be had from it."""
        self._client = engine()
        if gpu:
            podman.refuse_gpu(self._client)
        self.engine_version = podman.engine_version(self._client)
        self._ends = podman.Ends if podman.is_podman(self._client) else Ends
        self._run_id, self._cache, self._data, self._base = run_id, cache, data, base
        self._root, self._owner = staged_worker_root(), owner.mine()
        self._images: dict[Need, str] = {}
        self._info: dict[str, Any] = {}
        cache.chmod(0o1777)
        with suppress(*_LOST):
            sweep(self._client, run_id)  # what was killed between making a container and starting it
            sweep_dead(self._client)
        self._reaper = Reaper(run_id)

    def provide(self, needs: Sequence[Need], progress: Progress) -> dict[Need, Provision]:
        """Build the images on first use, or take the cells' own. Raises EnvironmentUnavailable, InputError."""
        provisions = {need: self._not_ours(need, progress) for need in needs}
        ours = [need for need, provision in provisions.items() if provision is None]
        wanted = [images.Wanted(one.framework.name, _text(one.framework.get("version")), one.flavour) for one in ours]
        built = images.build_all(wanted=wanted, base=self._base, progress=progress) if wanted else []
        for need, made in zip(ours, built, strict=True):
            provisions[need] = Provision(framework=made.framework, version=made.version, image=made.id, base=made.base)
        provided = {need: provision for need, provision in provisions.items() if provision}
        self._images |= {need: str(provision.image) for need, provision in provided.items()}
        return provided

    def _not_ours(self, need: Need, progress: Progress) -> Provision | None:
        """The user's own image, or the base for a stub, which needs the standard library alone; else None."""
        framework = need.framework
        if own := framework.get("image"):
            found = foreign_image.inspect(self._client, str(own), framework.name, progress)
            version, asked = found.versions[framework.name], framework.get("version")
            if asked and version.partition("+")[0] != asked:
                raise InputError(f'image "{own}" holds {framework.name} {version}, not {asked}; leave version out')
            return Provision(framework=framework.name, version=version, image=found.id, notes=found.notes)
        if framework.name == STUB:
            ground = base_image.choose(self._client, base=self._base, progress=progress)
            return Provision(framework=STUB, version=ground.python, image=ground.id, base=ground.id)
        return None

    def start(self, *, cell: Cell, cpus: frozenset[int], padding: int) -> DockerChannel:
        """A fresh container. Raises WorkerFailed where it cannot start, EngineLost where no engine answers."""
        image = self._images[Need.of(cell)]
        api = self._client.api
        try:
            gpu = self._gpu_request(cell)
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
                    inherited={"HOME": "/tmp", "USER": "nobody", **gpus.variables(gpu)},  # noqa: S108
                ),
                labels={"bench.run": self._run_id, owner.LABEL: self._owner},
                host_config=self._host_config(cpus, gpu=gpu),
            )["Id"]
        except APIError as error:
            raise _refused("created", error) from None
        except _LOST as error:
            raise EngineLost(f"the Docker engine went away: {_line(error)}") from None
        try:
            return DockerChannel(self._client, container, image, self._ends(api, container), gpu)
        except _LOST as error:
            with suppress(*_LOST):
                force_away(api, container)
            if isinstance(error, APIError):
                raise _refused("started", error) from None
            raise EngineLost(f"the Docker engine went away: {_line(error)}") from None

    def _gpu_request(self, cell: Cell) -> GpuRequest | None:
        """How this engine is asked for the cell's GPU; it is asked what it offers when a cell first wants one."""
        uuid = gpu_for(cell)
        if uuid is None:
            return None
        self._info = self._info or self._client.api.info()
        return GpuRequest(uuid=uuid, way=gpus.way(uuid, self._info))

    def _host_config(self, cpus: frozenset[int], *, gpu: GpuRequest | None) -> Any:
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
            log_config=LogConfig(type=LogConfig.types.NONE),
            init=False,
            **gpus.host_options(gpu),
        )

    def data_path(self, data: Path | None, cell: Cell) -> str | None:
        """Where the data is mounted."""
        return DATA if data else None

    def close(self) -> None:
        """Remove every container that still carries this run's label."""
        with suppress(*_LOST):
            sweep(self._client, self._run_id)
            self._reaper.dismiss()
        self._client.close()


def _python(api: Any, image: str) -> str:
    """The image's own framework environment, or whatever its python3 is for an image that is not ours."""
    return foreign_image.interpreter(api.inspect_image(image)["Config"].get("Labels"))


def _raw(attached: Any) -> socket.socket:
    """docker-py wraps the socket differently over http and unix."""
    return attached if isinstance(attached, socket.socket) else attached._sock


def _memory_total_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _refused(doing: str, error: APIError) -> WorkerFailed:
    """What the engine could not do, in words with a remedy where a GPU is what it could not give."""
    if words := gpus.sentence(str(error.explanation or error)):
        return WorkerFailed(words, kind="no_gpu")
    return WorkerFailed(f"the container could not be {doing}: {_line(error)}", kind="crashed")


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _line(error: object) -> str:
    return " ".join(str(getattr(error, "explanation", None) or error).split())[:300]
