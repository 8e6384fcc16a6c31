"""Where things lie: the recipes for images, the user's cache, and the workers' own package."""

from __future__ import annotations

import compileall
import fcntl
import hashlib
import os
import py_compile
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from bench import storage

ANOTHER_CACHE = "name another folder in BENCH_CACHE"

_PACKAGE = Path(__file__).resolve().parent


def images_root() -> Path:
    """The folder with Dockerfiles and locks: inside an installed wheel, or the checkout's own."""
    installed = _PACKAGE / "_images"
    return installed if installed.is_dir() else _PACKAGE.parent / "images"


def cache_root() -> Path:
    """The user's cache folder for bench, made if absent; the environment variable BENCH_CACHE moves it."""
    chosen = os.environ.get("BENCH_CACHE")
    root = Path(chosen).expanduser().resolve() if chosen else Path(platformdirs.user_cache_dir("bench"))
    with storage.told(root, remedy=ANOTHER_CACHE):
        root.mkdir(parents=True, exist_ok=True)
    return root


def worker_root() -> Path:
    """The folder that contains the package `workloads`, as installed or checked out."""
    return _PACKAGE.parent


def staged_worker_root() -> Path:
    """A folder that holds a copy of the package `workloads` and nothing else, the same for the same content.

    A worker's PYTHONPATH, and the read-only mount of a container: readable by every user, and never changed once made.
    """
    source = worker_root() / "workloads"
    files = {path.relative_to(source): path.read_bytes() for path in sorted(_sources(source))}
    digest = hashlib.sha256(b"with bytecode")
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    staged = cache_root() / "workers" / digest.hexdigest()[:16]
    if not staged.is_dir():
        with building(staged) as partial:
            for name, content in files.items():
                target = partial / "workloads" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            _compile(partial, staged)
            make_readable(partial)
    return staged


def _compile(folder: Path, final: Path) -> None:
    """Bytecode beside the sources, for this Python: workers write none, and would compile them at every start."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH  # these sources never change
    compileall.compile_dir(folder, quiet=2, stripdir=folder, prependdir=final, invalidation_mode=mode)


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Hold the lock `name` of this cache: one process or thread at a time; released when its holder dies."""
    locks = cache_root() / "locks"
    with storage.told(cache_root(), remedy=ANOTHER_CACHE):
        locks.mkdir(exist_ok=True)
        with (locks / f"{name}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder that exists, so that `bench clean` leaves it alone; released when its holder dies."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


@contextmanager
def building(final: Path) -> Iterator[Path]:
    """A new empty folder that becomes `final` at the end of the block, or vanishes if the block fails.

    Where another process was first, its folder stays: equal names hold equal content here.
    """
    with storage.told(final.parent, remedy=ANOTHER_CACHE):
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".partial-{final.name}-", dir=final.parent))
        try:
            yield partial
            try:
                partial.rename(final)
            except OSError:
                if not final.is_dir():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def sweep(final: Path) -> None:
    """Remove what killed builders of `final` left behind; call it while holding the lock of `final`."""
    for partial in final.parent.glob(f".partial-{final.name}-*"):
        shutil.rmtree(partial, ignore_errors=True)


def make_readable(folder: Path) -> None:
    """Let every user read `folder`, whatever the umask was: containers run as nobody."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _sources(package: Path) -> Iterator[Path]:
    """The package's Python, which is all of it that a worker reads: no prose, and no caches of tools."""
    for path in package.rglob("*.py"):
        if not any(part == "__pycache__" or part.startswith(".") for part in path.relative_to(package).parts):
            yield path
