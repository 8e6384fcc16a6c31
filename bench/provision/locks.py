"""Which packages belong to a framework: committed locks, locks resolved on first use, and hashes held from then on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from bench import frameworks, paths
from bench.errors import EnvironmentUnavailable, InputError

FLAVOURS = ("cpu", "cuda")
PYTHONS = ("3.11", "3.12", "3.13")
# In full, as every release of a framework calls itself: 2.13 and 2.13.0 would be one release under two names.
_VERSION = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}((a|b|rc|\.post)\d+)?")


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
    """What wheels must fit: the image's or the environment's interpreter, not the running one, and the device."""

    python: str
    machine: str = platform.machine()
    flavour: str = "cpu"

    @property
    def tag(self) -> str:
        """The short name of the Python version: py311."""
        return "py" + self.python.replace(".", "")


@dataclass(frozen=True)
class Lock:
    """All packages of one framework at one version; `committed` if it is part of bench, else resolved on first use."""

    framework: str
    flavour: str
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
    def is_cuda_build(self) -> bool:
        """Whether it brings CUDA's libraries, whatever device it is for."""
        return any(pin.name.startswith("nvidia-") for pin in self.pins)

    @property
    def framework_pin(self) -> Pin:
        """The framework's own package among the pins."""
        return next(pin for pin in self.pins if pin.name == own_package(self.framework, self.flavour))


def locked_version(framework: str, flavour: str = "cpu") -> str:
    """The version that the committed lock pins; reads one file, asks no network."""
    return committed_lock(framework, flavour).version


def lock(*, framework: str, version: str | None, target: Target) -> Lock | None:
    """The lock for a version: the committed one, one resolved earlier, or None where it was never resolved here."""
    check(framework=framework, version=version, python=target.python, flavour=target.flavour)
    committed = committed_lock(framework, target.flavour)
    if version in {None, committed.version}:
        return committed
    path = _resolved_path(framework, str(version), target)
    if not path.exists():
        return None
    return parse(path.read_text(), framework=framework, flavour=target.flavour, committed=False)


def committed_lock(framework: str, flavour: str = "cpu") -> Lock:
    """The lock that travels with bench."""
    check(framework=framework, flavour=flavour)
    return parse(lock_path(framework, flavour).read_text(), framework=framework, flavour=flavour, committed=True)


def lock_path(framework: str, flavour: str) -> Path:
    """Where the committed lock lies; beside it the .in that it is made from."""
    return paths.images_root() / framework / f"requirements-{flavour}.lock"


def save_resolved(*, framework: str, version: str, target: Target, pins: tuple[Pin, ...]) -> Lock:
    """Keep what was resolved for `version` as its lock, from now on.

    raises  InputError: the release writes its number otherwise, and would stand under two names
    """
    ordered = tuple(sorted(pins, key=lambda pin: pin.name))
    found = Lock(framework, target.flavour, version, ordered, committed=False)
    if found.framework_pin.version != version:
        raise InputError(f'{framework} version "{version}" is release {found.framework_pin.version}; write it so')
    path = _resolved_path(framework, version, target)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, found.text)
    return found


def take_resolved(name: str, text: str) -> None:
    """Keep a lock that another machine resolved, under its own name, unless this one has it."""
    path = resolved_folder() / Path(name).name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _write(path, text)


def committed_hashes() -> dict[str, str]:
    """Wheel file name -> SHA-256, of the framework wheels that were seen when the locks were made."""
    files = paths.images_root().glob("*/wheels.sha256")
    lines = [line for path in sorted(files) for line in path.read_text().splitlines()]
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


def check(*, framework: str, version: str | None = None, python: str = PYTHONS[0], flavour: str = "cpu") -> None:
    """Raise InputError for what cannot exist, EnvironmentUnavailable for a Python or machine that no lock covers."""
    known = frameworks.get(framework)
    if known is None:
        raise InputError(f'framework "{framework}" is unknown; choose {" or ".join(frameworks.every())}')
    if flavour not in FLAVOURS:
        raise InputError(f'flavour "{flavour}" is unknown; choose {" or ".join(FLAVOURS)}')
    if flavour not in known.packages:
        raise InputError(f"{known.title} computes on the CPU alone; choose device cpu, or leave {framework} out")
    if flavour == "cuda" and platform.machine() != "x86_64":
        raise EnvironmentUnavailable(
            f"the locks of flavour cuda are for x86_64 and this machine is {platform.machine()}; "
            f"choose --device cpu, or name an image with CUDA: framework: [{{name: {framework}, image: …}}]"
        )
    if version is not None and not _VERSION.fullmatch(version):
        raise InputError(
            f'{framework} version "{version}" is no release number; write it like {locked_version(framework)}'
        )
    if python not in PYTHONS:
        raise EnvironmentUnavailable(
            f"Python {python} is outside {PYTHONS[0]} to {PYTHONS[-1]}, which the locks of {framework} cover; "
            f"choose an interpreter or base image in that range"
        )


def parse(text: str, *, framework: str, flavour: str, committed: bool) -> Lock:
    """Read pip's requirements format as uv writes it: name==version, then one --hash a line.

    The build's local label (+cpu) is dropped: a mirror may carry the same build without it.
    """
    pins = []
    for entry in re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines():
        if not entry.strip():
            continue
        requirement, *options = entry.split()
        name, _, version = requirement.partition("==")
        pins.append(Pin(name, version.partition("+")[0], tuple(o.removeprefix("--hash=sha256:") for o in options)))
    version = next(pin.version for pin in pins if pin.name == own_package(framework, flavour))
    return Lock(framework, flavour, version, tuple(pins), committed=committed)


def own_package(framework: str, flavour: str) -> str:
    """The framework's own package of a flavour."""
    return frameworks.every()[framework].packages[flavour]


def resolved_folder() -> Path:
    """Where this machine keeps the locks of versions that were resolved on first use."""
    return paths.cache_root() / "resolved"


def _resolved_path(framework: str, version: str, target: Target) -> Path:
    name = f"{framework}-{version}-{target.flavour}-{target.tag}-{target.machine}.lock"
    return resolved_folder() / name


def _hashes_path() -> Path:
    return paths.cache_root() / "wheelhouse" / "hashes.json"


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
