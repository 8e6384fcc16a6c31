"""Workers as hardened containers, one a trial: no network, read-only root, no capability, nobody's user, one cpuset.

What is mounted: the worker's package and the data, read-only; the run's compile caches, writable; a scratch in memory.
The engine itself removes a container that has ended: a harness that is killed leaves none behind.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from docker.errors import APIError
from docker.types import LogConfig, Ulimit

from bench import storage
from bench.engine import owner, podman
from bench.engine import words as engine_errors
from bench.engine.client import address, engine, one_sentence, run_once
from bench.engine.reaper import Reaper
from bench.engine.sweep import force_away, sweep, sweep_dead
from bench.engine.words import LOST, explained, went_away
from bench.errors import EngineLost, EnvironmentUnavailable, InputError, WorkerFailed
from bench.launch import GpuRequest, Place, Progress, Provision, worker_environment
from bench.launch import gpu as gpus
from bench.launch.container import DockerChannel, Ends
from bench.machine import describe
from bench.matrix.need import Need
from bench.paths import ANOTHER_CACHE, staged_worker_root
from bench.provision import base as base_image
from bench.provision import foreign
from bench.provision import image as images
from workloads.contract import STUB

if TYPE_CHECKING:
    from collections.abc import Sequence

    import docker

    from workloads.contract import Cell

__all__ = ["DockerChannel", "DockerLauncher"]

NOBODY = "65534:65534"
WORKER, DATA, CACHE = "/bench/worker", "/bench/data", "/bench/cache"
MEMORY_SHARE = 0.8
PIDS = 4096
SHARED_MEMORY_BYTES = 64 * 2**20  # of /dev/shm, which no workload uses: none loads data in processes of its own
NO_CORE_DUMPS = [Ulimit(name="core", soft=0, hard=0)]  # a dump would go where the host's core_pattern says
SCRATCH = "size=2g,mode=1777,exec,nosuid,nodev"  # exec: what torch.compile builds there is loaded


class DockerLauncher:
    """One image a framework, one container a trial."""

    name = "docker"

    def __init__(
        self, *, run_id: str, cache: Path, data: Path | None, base: str | None = None, gpu: bool = False
    ) -> None:
        """Raises EnvironmentUnavailable: no engine of this machine, or none that gives the `gpu` that is wanted."""
        self.client, self._info = _own_engine()
        self._cache, self.data, self._base = cache, data, base
        self.labels = {"bench.run": run_id, owner.LABEL: owner.mine()}
        self.images: dict[Need, str] = {}
        try:
            self._begin(run_id, gpu=gpu)
        except BaseException:
            self.client.close()
            raise

    @classmethod
    def at(cls, place: Place, *, gpu: bool = False) -> Self:
        """For the workers of one run."""
        return cls(run_id=place.run_id, cache=place.cache, data=place.data, base=place.base, gpu=gpu)

    def _begin(self, run_id: str, *, gpu: bool) -> None:
        """Learn what engine it is, and remove what dead runs left."""
        with one_sentence("telling its version", self.client):
            if gpu:
                podman.refuse_gpu(self.client)
            self.engine_version = podman.engine_version(self.client)
            self._is_podman = podman.is_podman(self.client)
        self._ends = podman.Ends if self._is_podman else Ends
        self._notes = tuple(
            filter(None, [engine_errors.seccomp_note(self._info), engine_errors.limits_note(self._info)])
        )
        self._root = staged_worker_root()
        with storage.told(self._cache, remedy=ANOTHER_CACHE):
            self._cache.chmod(0o1777)
        with suppress(*LOST):
            sweep(self.client, run_id)  # what was killed between making a container and starting it
            sweep_dead(self.client)
        self._reaper = Reaper(run_id)

    def provide(self, needs: Sequence[Need], progress: Progress) -> dict[Need, Provision]:
        """Build the images on first use, or take the cells' own. Raises EnvironmentUnavailable, InputError."""
        with one_sentence("having the images", self.client):
            provisions = self._provisions(needs, progress)
        self.images |= {need: str(provision.image) for need, provision in provisions.items()}
        return {need: replace(one, notes=(*one.notes, *self._notes)) for need, one in provisions.items()}

    def _provisions(self, needs: Sequence[Need], progress: Progress) -> dict[Need, Provision]:
        found = {need: self._not_ours(need, progress) for need in needs}
        ours = [need for need, provision in found.items() if provision is None]
        wanted = [images.Wanted(one.framework.name, _text(one.framework.get("version")), one.flavour) for one in ours]
        built = images.build_all(wanted=wanted, base=self._base, progress=progress) if wanted else []
        for need, made in zip(ours, built, strict=True):
            lock, notes = images.origin(self.client, made)
            found[need] = Provision(
                framework=made.framework, version=made.version, image=made.id, base=made.base, lock=lock, notes=notes
            )
        return {need: provision for need, provision in found.items() if provision}

    def _not_ours(self, need: Need, progress: Progress) -> Provision | None:
        """The user's own image, or the base for a stub, which needs the standard library alone; else None."""
        framework = need.framework
        if own := framework.get("image"):
            found = foreign.inspect(self.client, str(own), framework.name, progress)
            version, asked = found.versions[framework.name], framework.get("version")
            if asked and version.partition("+")[0] != asked:
                raise InputError(f'image "{own}" holds {framework.name} {version}, not {asked}; leave version out')
            return Provision(framework=framework.name, version=version, image=found.id, notes=found.notes)
        if framework.name == STUB:
            ground = base_image.choose(self.client, base=self._base, progress=progress)
            return Provision(framework=STUB, version=ground.python, image=ground.id, base=ground.id)
        return None

    def start(self, *, cell: Cell, cpus: frozenset[int], padding: int) -> DockerChannel:
        """A fresh container. Raises WorkerFailed where it cannot start, EngineLost where no engine answers."""
        image = self.images[Need.of(cell)]
        api = self.client.api
        try:
            gpu = self._gpu_request(cell)
            config = self.client.images.get(image).attrs["Config"]
            container = api.create_container(
                image=image,
                command=[foreign.interpreter(config.get("Labels")), "-m", "workloads.worker"],
                entrypoint=[],
                user=NOBODY,
                stdin_open=True,
                healthcheck=None if self._is_podman else {"test": ["NONE"]},  # an image's own would run beside slices
                detach=False,
                network_disabled=True,
                working_dir="/tmp",  # noqa: S108 - the container's own scratch
                environment=worker_environment(
                    root=foreign.python_path(WORKER, config),
                    cache=CACHE,
                    padding=padding,
                    inherited={"HOME": "/tmp", "USER": "nobody", **gpus.variables(gpu)},  # noqa: S108
                ),
                labels=self.labels,
                host_config=self._host_config(cpus, gpu=gpu),
            )["Id"]
        except APIError as error:
            raise self._refused("created", error) from None
        except LOST as error:
            raise EngineLost(went_away(error)) from None
        try:
            channel = DockerChannel(self.client, container, image, self._ends(api, container), gpu)
            channel.refuse_foreign()
            return channel
        except EnvironmentUnavailable:
            channel.remove()
            raise
        except LOST as error:
            with suppress(*LOST):
                force_away(api, container)
            if isinstance(error, APIError):
                raise self._refused("started", error) from None
            raise EngineLost(went_away(error)) from None

    def _refused(self, doing: str, error: APIError) -> WorkerFailed:
        """What the engine could not do, in words with a remedy."""
        if words := gpus.sentence(str(error.explanation or error)):
            return WorkerFailed(words, kind="no_gpu")
        return WorkerFailed(f"the container could not be {doing}: {explained(error, self.client)}", kind="crashed")

    def _gpu_request(self, cell: Cell) -> GpuRequest | None:
        """How this engine is asked for the cell's GPU."""
        uuid = describe.gpu_for(cell)
        return GpuRequest(uuid=uuid, way=gpus.way(uuid, self._info)) if uuid else None

    def _host_config(self, cpus: frozenset[int], *, gpu: GpuRequest | None) -> Any:
        mounts = [f"{self._root}:{WORKER}:{self._option('ro')}", f"{self._cache}:{CACHE}:{self._option('rw')}"]
        mounts += self.data_mounts()
        limit = int(_memory_total_bytes() * MEMORY_SHARE)
        return self.client.api.create_host_config(
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
            ulimits=None if self._is_podman else NO_CORE_DUMPS,  # Podman drops its defaults where one limit is named
            log_config=LogConfig(type=LogConfig.types.NONE),
            init=False,
            **gpus.host_options(gpu),
        )

    def data_mounts(self) -> list[str]:
        """The host's folder, read-only."""
        return [f"{self.data}:{DATA}:{self._option('ro')}"] if self.data else []

    def _option(self, access: str) -> str:
        """Of a mount: where SELinux holds containers apart, the folder is labelled as one that they may share."""
        return f"{access},z" if "name=selinux" in (self._info.get("SecurityOptions") or []) else access

    def data_path(self, data: Path | None, cell: Cell) -> str | None:
        """Where the data is mounted."""
        return DATA if data else None

    def close(self) -> None:
        """Remove every container and all data that still carry this run's label, and what workers compiled."""
        with suppress(*LOST):
            sweep(self.client, self.labels["bench.run"])
            sweep(self.client, self.labels["bench.run"], whose=self.labels[owner.LABEL])  # the data too
            self._reaper.dismiss()
        with suppress(*LOST):
            self._empty_cache()
        self.client.close()

    def _empty_cache(self) -> None:
        """What workers compiled belongs to their user, so that nobody but root or they can remove it."""
        if os.geteuid() != 0 and self.images and any(self._cache.iterdir()):
            image = next(iter(self.images.values()))
            code = f"import glob, shutil; [shutil.rmtree(path, True) for path in glob.glob('{CACHE}/*')]"
            binds = [f"{self._cache}:{CACHE}:{self._option('rw')}"]
            run_once(
                self.client,
                image,
                ["-c", code],
                entrypoint=[_python(self.client.api, image)],
                user=NOBODY,
                volumes=binds,
            )


def _python(api: Any, image: str) -> str:
    """The image's own framework environment, or whatever its python3 is for an image that is not ours."""
    return foreign.interpreter(api.inspect_image(image)["Config"].get("Labels"))


def _memory_total_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


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
        memory_bytes = describe.memory_bytes(Path("/"))
        engine_errors.refuse_remote(where, info, kernel=os.uname().release, memory_bytes=memory_bytes)
    except EnvironmentUnavailable:
        client.close()
        raise
    return client, info
