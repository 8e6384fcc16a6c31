"""Launchers: start a worker somewhere, talk to it, and leave nothing behind.

A `Launcher` makes what its workers need (environments or images) and starts them; a `Channel` carries bytes to and from
one worker; a `Group` asks the workers of one block questions, with limits on time and size, and keeps them alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from pathlib import Path

    from bench.matrix.need import Need
    from workloads.contract import Cell

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Provision:
    """What a framework's workers run in: an environment or an image, with its version and where that came from."""

    framework: str
    version: str
    image: str | None = None
    base: str | None = None
    lock: str | None = None
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """As recorded in run.json."""
        return {
            "version": self.version,
            "image": self.image,
            "base": self.base,
            "lock": self.lock,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class GpuRequest:
    """The GPU that was asked for a worker by its UUID, and how: `process`, or one of bench.launch.gpu.WAYS."""

    uuid: str
    way: str


class Channel(Protocol):
    """A worker's ends: bytes in, bytes out, and its fate."""

    @property
    def gpu(self) -> GpuRequest | None:
        """What was asked for it; None for a worker on the CPU."""

    @property
    def image(self) -> str | None:
        """The container's image id; None for a bare process."""

    @property
    def pid(self) -> int:
        """On the host."""

    @property
    def scope(self) -> str:
        """How the sampler reads it: `cgroup` for a container, `process` for a bare one."""

    def filenos(self) -> Sequence[int]:
        """Descriptors that become readable when the worker has said something or ended."""

    def send(self, data: bytes) -> None:
        """Raises OSError when the worker is gone."""

    def receive(self, fileno: int) -> tuple[bytes, bytes] | None:
        """What came on that descriptor, as (stdout, stderr); None when it has ended."""

    def fate(self) -> tuple[str, str]:
        """How it ended: (kind, words), such as ("oom", "was killed for memory"); waits a moment for the end."""

    def remove(self) -> None:
        """Kill it if it runs, and remove all that it leaves."""


class Launcher(Protocol):
    """Where workers run."""

    @property
    def name(self) -> str:
        """`docker` or `local`, or both where a run has both."""

    @property
    def engine_version(self) -> str | None:
        """Of the container engine, where there is one."""

    def start(self, *, cell: Cell, cpus: frozenset[int], padding: int) -> Channel:
        """A fresh worker for the cell. Raises EngineLost, or WorkerFailed where it cannot start."""

    def data_path(self, data: Path | None, cell: Cell) -> str | None:
        """The data folder as the cell's worker sees it."""

    def close(self) -> None:
        """Remove everything this launcher started."""


class Provider(Launcher, Protocol):
    """A launcher of one kind, which has to be given what it launches: a row of `bench.matrix.launcher`."""

    @classmethod
    def at(cls, place: Place, *, gpu: bool = False) -> Self:
        """For the workers of one run, some of which want a GPU. Raises EnvironmentUnavailable."""

    def provide(self, needs: Sequence[Need], progress: Progress) -> dict[Need, Provision]:
        """Make or find the environments or images. Raises EnvironmentUnavailable."""


def joined(launchers: Iterable[str]) -> str:
    """The name of one launcher, or of several that a run has at once: "docker and local"."""
    return " and ".join(sorted(launchers))


def worker_environment(*, root: str, cache: str, padding: int, inherited: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a worker: little, the same for both frameworks, and padded to vary the stack's layout.

    source   Mytkowicz et al. 2009, doi:10.1145/1508244.1508275
    """
    return {
        **inherited,
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": root,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
        "BENCH_COMPILE_CACHE": cache,  # in which every cell has its own: see workloads.trial.own_compile_cache
        "BENCH_PADDING": "x" * padding,
    }


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run's workers find things."""

    run_id: str
    cache: Path
    data: Path | None
    base: str | None
