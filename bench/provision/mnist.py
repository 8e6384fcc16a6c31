"""MNIST on this machine: fetched once from whichever source has it, held by SHA-256, readable by every container.

A file counts only if its length and SHA-256 are right; anything else is refused and the next source is asked.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import paths
from bench.errors import EnvironmentUnavailable, GateError
from bench.provision.mnist_sources import DataFile, Mirror, Source, SourceFailed, mnist_sources

FILES = (
    DataFile("train-images-idx3-ubyte", 47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    DataFile("train-labels-idx1-ubyte", 60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    DataFile("t10k-images-idx3-ubyte", 7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    DataFile("t10k-labels-idx1-ubyte", 10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
)
_ORIGIN = "source.txt"

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A verified data set: its folder, the SHA-256 of every file, and the source that it came from."""

    folder: Path
    sha256: dict[str, str]
    source: str


@dataclass(frozen=True, kw_only=True)
class FileStatus:
    """One file as found: `fault` is None if it is as it should be, else what is wrong with it."""

    name: str
    path: Path
    fault: str | None

    @property
    def ok(self) -> bool:
        """Whether the file is there, whole and the right one."""
        return self.fault is None


def folder() -> Path:
    """Where MNIST is kept; it may not be there yet."""
    return paths.cache_root() / "data" / "mnist"


def verify(*, files: Sequence[DataFile] = FILES) -> list[FileStatus]:
    """Every file of the cache as found, read in full; raises nothing for what is missing or wrong."""
    return [_status(folder() / file.name, file) for file in files]


def gate(statuses: Sequence[FileStatus]) -> None:
    """Raise GateError with one sentence unless every file is as it should be: `bench data verify`."""
    faults = [f"{status.name} {status.fault}" for status in statuses if not status.ok]
    if faults:
        raise GateError(f"MNIST in {folder()}: {', '.join(faults)}; run `bench data fetch`")


def require(progress: Progress | None = None) -> DataSet:
    """MNIST, verified in full (a fraction of a second); fetched first where it is not."""
    return present() or fetch(progress)


def present(*, files: Sequence[DataFile] = FILES) -> DataSet | None:
    """The data set of the cache, or None unless all of it is there and right."""
    if not all(status.ok for status in verify(files=files)):
        return None
    try:
        source = (folder() / _ORIGIN).read_text(encoding="utf-8").strip()
    except OSError:
        source = "unknown"
    return DataSet(folder=folder(), sha256={file.name: file.sha256 for file in files}, source=source)


def fetch(
    progress: Progress | None = None, *, sources: Sequence[Source] | None = None, files: Sequence[DataFile] = FILES
) -> DataSet:
    """MNIST from the first source that has it; at once if the cache does.

    Of several processes one fetches and the others wait for it. Files appear whole and fsynced, or not at all.

    progress  called with one line for every source that is tried or refused
    raises    EnvironmentUnavailable: one sentence with every source's reason
    """
    say = progress or _silent
    with paths.exclusive("data-mnist"):
        found = present(files=files)
        if found is None:
            folder().mkdir(parents=True, exist_ok=True)
            _obtain(mnist_sources() if sources is None else sources, files, say)
            found = present(files=files)
    if found is None:
        raise EnvironmentUnavailable(f"MNIST in {folder()} changed while it was written; run `bench data fetch` again")
    return found


def _obtain(sources: Sequence[Source], files: Sequence[DataFile], say: Progress) -> None:
    """Ask source after source for the files that are not right yet."""
    wanted = [file for file in files if not _status(folder() / file.name, file).ok]
    reasons = []
    for source in sources:
        if isinstance(source, Mirror):
            _begin(sources)
        say(f"MNIST: asking {source.name}")
        try:
            _take_from(source, wanted)
        except SourceFailed as failed:
            reasons.append(f"{source.name}: {failed}")
            say(f"MNIST: {reasons[-1]}")
            continue
        say(f"MNIST: verified by SHA-256, from {source.name}")
        return
    raise EnvironmentUnavailable(
        f"MNIST cannot be had from any source ({'; '.join(reasons)}); "
        "put its four idx files into a folder and name that folder in the environment variable BENCH_MNIST"
    )


def _begin(sources: Sequence[Source]) -> None:
    for source in sources:
        if isinstance(source, Mirror):
            source.begin()


def _take_from(source: Source, wanted: Sequence[DataFile]) -> None:
    """Have the wanted files delivered beside the cache, check all, then move them in one by one."""
    for left in folder().glob(".partial-*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder()) as partial:
        source.deliver(wanted, Path(partial))
        for file in wanted:
            if fault := _status(Path(partial) / file.name, file).fault:
                raise SourceFailed(f"refused, {file.name} {fault}")
        _write(Path(partial) / _ORIGIN, source.name)
        for name in (*(file.name for file in wanted), _ORIGIN):
            _settle(Path(partial) / name, folder() / name)
    folder().chmod(0o755)
    _sync(folder())


def _status(path: Path, file: DataFile) -> FileStatus:
    return FileStatus(name=file.name, path=path, fault=_fault(path, file))


def _fault(path: Path, file: DataFile) -> str | None:
    try:
        size = path.stat().st_size
        if size != file.size:
            return f"has {size} bytes instead of {file.size}"
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if digest == file.sha256 else f"has SHA-256 {digest[:12]}… instead of {file.sha256[:12]}…"


def _settle(partial: Path, final: Path) -> None:
    """Move a finished file into place, readable by all: containers run as nobody."""
    partial.chmod(0o644)
    _sync(partial)
    partial.replace(final)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, line: str) -> None:
    path.write_text(f"{line}\n", encoding="utf-8")


def _silent(line: str) -> None:
    """Report to nobody."""
