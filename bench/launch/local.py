"""Workers as plain processes, one virtual environment a framework; also the reference, in the harness's own Python."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bench import paths, storage
from bench.errors import InputError
from bench.launch import GpuRequest, Place, Progress, Provision, worker_environment
from bench.machine.describe import gpu_for
from bench.matrix.need import Need
from bench.paths import staged_worker_root
from bench.provision.venv import environment
from workloads.contract import STUB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workloads.contract import Cell

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH")


class LocalChannel:
    """A child process, its pipes, a session of its own so that compilers it started die with it, and its `scratch`.

    In that folder of its own it may leave what it likes: one that is not waited for leaves generated sources.
    """

    image = None
    scope = "process"

    def __init__(
        self, command: Sequence[str], env: dict[str, str], *, scratch: Path, gpu: GpuRequest | None = None
    ) -> None:
        self.gpu, self._scratch = gpu, scratch
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            bufsize=0,
            start_new_session=True,
        )
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        self._stdin, self._stdout, self._stderr = self._process.stdin, self._process.stdout, self._process.stderr
        self.pid = self._process.pid

    def filenos(self) -> Sequence[int]:
        """Stdout and stderr."""
        return (self._stdout.fileno(), self._stderr.fileno())

    def send(self, data: bytes) -> None:
        """Raises BrokenPipeError when the worker is gone."""
        self._stdin.write(data)

    def receive(self, fileno: int) -> tuple[bytes, bytes] | None:
        """(stdout, stderr) of what is there now."""
        chunk = os.read(fileno, 2**20)
        if not chunk:
            return None
        return (chunk, b"") if fileno == self._stdout.fileno() else (b"", chunk)

    def fate(self) -> tuple[str, str]:
        """A kill that nobody here asked for is, on Linux, nearly always the kernel's for memory."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "crashed", "closed its output and went on"
        if code == -signal.SIGKILL:
            return "oom", "was killed (signal 9: out of memory, or by hand)"
        if code < 0:
            return "crashed", f"crashed with signal {-code} ({signal.Signals(-code).name})"
        return "crashed", f"ended with exit status {code}"

    def remove(self) -> None:
        """Kill the whole session, close the pipes, and take its scratch folder away."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._stdin, self._stdout, self._stderr):
            pipe.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


class LocalLauncher:
    """One virtual environment a framework, in the user's cache."""

    name = "local"
    engine_version = None

    def __init__(self, *, cache: Path) -> None:
        self._cache = cache
        self._root = staged_worker_root()
        self._pythons: dict[Need, Path] = {}

    @classmethod
    def at(cls, place: Place, *, gpu: bool = False) -> Self:
        """For the workers of one run; a GPU takes no more than its own number."""
        return cls(cache=place.cache)

    def provide(self, needs: Sequence[Need], progress: Progress) -> dict[Need, Provision]:
        """Make the environments on first use, side by side. Raises EnvironmentUnavailable."""
        with ThreadPoolExecutor() as pool:
            provided = list(pool.map(lambda need: self._provide(need, progress), needs))
        return dict(zip(needs, provided, strict=True))

    def _provide(self, need: Need, progress: Progress) -> Provision:
        framework = need.framework
        if framework.get("image") is not None:
            raise InputError(f"{framework}: an image runs with --launcher docker only; leave image out, or use docker")
        if framework.name == STUB:  # the standard library is all that it needs
            self._pythons[need] = Path(sys.executable)
            return Provision(framework=STUB, version=platform.python_version())
        version = framework.get("version")
        found = environment(
            framework=framework.name, version=str(version) if version is not None else None, flavour=need.flavour,
            progress=progress,
        )  # fmt: skip
        self._pythons[need] = found.python
        return Provision(framework=found.framework, version=found.version, lock=found.lock_hash, notes=found.notes)

    def start(self, *, cell: Cell, cpus: frozenset[int], padding: int) -> LocalChannel:
        """A fresh process in the framework's environment; the worker itself takes `cpus` when it is opened."""
        uuid = gpu_for(cell)
        gpu = GpuRequest(uuid=uuid, way="process") if uuid else None
        python = self._pythons[Need.of(cell)]
        return start_process(python, root=self._root, cache=self._cache, padding=padding, gpu=gpu)

    def data_path(self, data: Path | None, cell: Cell) -> str | None:
        """The same path as the host's."""
        return str(data) if data else None

    def close(self) -> None:
        """Every process belongs to a Group, which removes it."""


def start_reference(*, cache: Path) -> LocalChannel:
    """The NumPy reference, in the harness's own Python."""
    return start_process(Path(sys.executable), root=staged_worker_root(), cache=cache, padding=0)


def start_process(
    python: Path, *, root: Path, cache: Path, padding: int, gpu: GpuRequest | None = None
) -> LocalChannel:
    """A worker under the interpreter `python`; of the GPUs it sees this one alone.

    cache   the run's own folder: compiled code stays in it until the run ends, scratch until its process is removed
    raises  StorageFailed, ProcessRefused
    """
    with storage.told(cache, remedy=paths.ANOTHER_CACHE):
        cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=cache))
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ} | {"TMPDIR": str(scratch)}
    if gpu:
        inherited["CUDA_VISIBLE_DEVICES"] = gpu.uuid
        inherited["LD_LIBRARY_PATH"] = _with_cuda(python, inherited.get("LD_LIBRARY_PATH"))
    env = worker_environment(root=str(root), cache=str(cache), padding=padding, inherited=inherited)
    try:
        return LocalChannel([str(python), "-m", "workloads.worker"], env, scratch=scratch, gpu=gpu)
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        remedy = "what was removed from the cache, the next run or --resume makes again"
        raise storage.process_refused(f"a worker with {python}", error, remedy=remedy) from None


def _with_cuda(python: Path, before: str | None) -> str:
    """CUDA's libraries come as wheels, and not every one that loads another says where it lies."""
    wheels = sorted(python.parent.parent.glob("lib/python3*/site-packages/nvidia/*/lib"))
    return os.pathsep.join([*map(str, wheels), *([before] if before else [])])
