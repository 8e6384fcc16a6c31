"""Which packages belong to a framework: committed locks, locks resolved on first use, and hashes held from then on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from bench import paths
from bench.errors import EnvironmentUnavailable, InputError

DISTRIBUTIONS = {"tensorflow": "tensorflow-cpu", "pytorch": "torch"}
PYTHONS = ("3.11", "3.12", "3.13")
_VERSION = re.compile(r"\d+(\.\d+){0,3}((a|b|rc|\.post)\d+)?")


@dataclass(frozen=True)
class Pin:
    """One package at one version; `hashes` are the SHA-256 of its wheels, in hexadecimal."""

    name: str
    version: str
    hashes: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{digest}" for digest in self.hashes)])


@dataclass(frozen=True)
class Target:
    """The interpreter that wheels must fit: the image's or the environment's, not the running one."""

    python: str
    machine: str = platform.machine()

    @property
    def tag(self) -> str:
        """The short name of the Python version: py311."""
        return "py" + self.python.replace(".", "")


@dataclass(frozen=True)
class Lock:
    """All packages of one framework at one version; `committed` if it is part of bench, else resolved on first use."""

    framework: str
    version: str
    pins: tuple[Pin, ...]
    committed: bool

    @property
    def text(self) -> str:
        """The lock in pip's requirements format, one package a line."""
        return "".join(f"{pin}\n" for pin in self.pins)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with any pin or hash."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    @property
    def framework_pin(self) -> Pin:
        """The framework's own package among the pins."""
        return next(pin for pin in self.pins if pin.name == DISTRIBUTIONS[self.framework])


def locked_version(framework: str) -> str:
    """The version that the committed lock pins; reads one file, asks no network."""
    return committed_lock(framework).version


def lock(*, framework: str, version: str | None, target: Target) -> Lock | None:
    """The lock for a version: the committed one, one resolved earlier, or None where it was never resolved here."""
    check(framework=framework, version=version, python=target.python)
    committed = committed_lock(framework)
    if version in {None, committed.version}:
        return committed
    path = _resolved_path(framework, str(version), target)
    return _parse(path, framework=framework, committed=False) if path.exists() else None


def committed_lock(framework: str) -> Lock:
    """The lock that travels with bench."""
    check(framework=framework)
    return _parse(paths.images_root() / framework / "requirements-cpu.lock", framework=framework, committed=True)


def save_resolved(*, framework: str, version: str, target: Target, pins: tuple[Pin, ...]) -> Lock:
    """Keep what was resolved for `version` as its lock, from now on."""
    found = Lock(framework, version, tuple(sorted(pins, key=lambda pin: pin.name)), committed=False)
    path = _resolved_path(framework, version, target)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, found.text)
    return found


def committed_hashes() -> dict[str, str]:
    """Wheel file name -> SHA-256, of the framework wheels that were seen when the locks were made."""
    lines = (paths.images_root() / "pytorch" / "wheels.sha256").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def held_hash(name: str, digest: str) -> str:
    """The SHA-256 that the wheel `name` is held to: committed, recorded here before, or from now on `digest`."""
    committed = committed_hashes().get(name)
    if committed:
        return committed
    with paths.exclusive("hashes"):
        path = _hashes_path()
        recorded: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        if name not in recorded:
            recorded[name] = digest
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, json.dumps(recorded, indent=1, sort_keys=True))
        return recorded[name]


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def check(*, framework: str, version: str | None = None, python: str = PYTHONS[0]) -> None:
    """Raise InputError for a framework or version that cannot exist, EnvironmentUnavailable for an uncovered Python."""
    if framework not in DISTRIBUTIONS:
        raise InputError(f'framework "{framework}" is unknown; choose tensorflow or pytorch')
    if version is not None and not _VERSION.fullmatch(version):
        raise InputError(
            f'{framework} version "{version}" is no release number; write it like {locked_version(framework)}'
        )
    if python not in PYTHONS:
        raise EnvironmentUnavailable(
            f"Python {python} is outside {PYTHONS[0]} to {PYTHONS[-1]}, which the locks of {framework} cover; "
            f"choose an interpreter or base image in that range"
        )


def _parse(path: Path, *, framework: str, committed: bool) -> Lock:
    """Read pip's requirements format as uv writes it: name==version, then one --hash a line.

    The build's local label (+cpu) is dropped: a mirror may carry the same build without it.
    """
    pins = []
    for entry in re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", path.read_text())).splitlines():
        if not entry.strip():
            continue
        requirement, *options = entry.split()
        name, _, version = requirement.partition("==")
        pins.append(Pin(name, version.partition("+")[0], tuple(o.removeprefix("--hash=sha256:") for o in options)))
    version = next(pin.version for pin in pins if pin.name == DISTRIBUTIONS[framework])
    return Lock(framework, version, tuple(pins), committed=committed)


def _resolved_path(framework: str, version: str, target: Target) -> Path:
    return paths.cache_root() / "resolved" / f"{framework}-{version}-cpu-{target.tag}-{target.machine}.lock"


def _hashes_path() -> Path:
    return paths.cache_root() / "wheelhouse" / "hashes.json"


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
