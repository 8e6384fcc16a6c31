"""All wheels of one framework in one folder, downloaded once with the user's pip and installed offline ever after."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import frameworks, paths
from bench.errors import EnvironmentUnavailable
from bench.provision import locks
from bench.provision.locks import Lock, Pin, Target, locked_version
from bench.provision.pip import PipFailed, fitting, pip
from bench.provision.torch import find_cpu_wheel, find_wheel

__all__ = ["Wheelhouse", "gather", "locked_version"]

REQUIREMENTS = "requirements.txt"
_MANIFEST = "wheelhouse.json"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Wheelhouse:
    """A complete folder of wheels with `requirements.txt`, every package pinned and hashed; notes are for a report."""

    path: Path
    framework: str
    version: str
    flavour: str
    python: str
    lock_hash: str
    notes: tuple[str, ...]

    @property
    def requirements(self) -> Path:
        """What an offline install is given: exact pins with hashes of the files in this folder."""
        return self.path / REQUIREMENTS


def gather(*, framework: str, version: str | None, python: str, progress: Progress, flavour: str = "cpu") -> Wheelhouse:
    """Have every wheel for this framework, version and Python on disk; a complete wheelhouse is not touched again.

    version  None for the locked one; another is resolved once with pip and held from then on
    flavour  "cpu" or "cuda": what the wheels compute on
    python   the target's, like "3.11": an image's or an environment's, not the running interpreter's
    raises   EnvironmentUnavailable: a wheel cannot be had, or is not the one that was locked
    """
    target = Target(python, flavour=flavour)
    lock = locks.lock(framework=framework, version=version, target=target)
    if lock is None:
        lock = _resolve(framework=framework, version=str(version), target=target, progress=progress)
    folder = _folder(lock, target)
    complete = _read(folder)
    if complete:
        return complete
    with paths.exclusive(f"wheelhouse-{folder.name}"):
        complete = _read(folder)  # somebody else may have been first
        if complete:
            return complete
        paths.sweep(folder)
        progress(f"downloading the wheels of {_called(lock)} for Python {python}")
        with paths.building(folder) as partial:
            _fill(partial, lock=lock, target=target)
    complete = _read(folder)
    if complete is None:
        raise EnvironmentUnavailable(f"{folder} vanished while it was filled; run the same command again")
    return complete


def _fill(folder: Path, *, lock: Lock, target: Target) -> None:
    """Download all pins, hold the framework's wheel to its hash, and write what an offline install needs."""
    pins = list(lock.pins)
    notes: list[str] = []
    if frameworks.every()[lock.framework].cpu_wheel and not lock.is_cuda_build:
        pins.remove(lock.framework_pin)
        package = lock.framework_pin.name
        wheel, origin = _download_cpu_wheel(package, lock.version, into=folder, target=target)
        digest = _held(wheel)
        chosen = Pin(package, _version(wheel), (digest,))
        notes.append(f"{package} {_version(wheel)} from {origin}")
        if wheel.name not in locks.committed_hashes():
            notes.append(f"hash of {wheel.name} recorded on first use: sha256:{digest}")
        _download(pins, into=folder, target=target, what=lock)
        pins.append(chosen)
    else:
        _download(pins, into=folder, target=target, what=lock)
    if not lock.committed:
        notes.append(f"{lock.framework} {lock.version} is not the locked version: resolved and recorded on first use")
    if lock.is_cuda_build and target.flavour == "cpu":
        notes.append(f"{lock.framework} {lock.version} is its CUDA build, run on the CPU: no CPU build could be had")
    (folder / REQUIREMENTS).write_text("".join(f"{pin}\n" for pin in pins))
    manifest = {"framework": lock.framework, "version": lock.version, "flavour": target.flavour}
    manifest |= {"python": target.python, "lock_hash": lock.digest}
    (folder / _MANIFEST).write_text(json.dumps({**manifest, "notes": notes}))
    paths.make_readable(folder)


def _download(pins: list[Pin], *, into: Path, target: Target, what: Lock) -> None:
    """Download exactly these pins; a wheel whose hash is not in the lock is refused by pip."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", prefix="bench-") as requirements:
        requirements.write("".join(f"{_exactly(pin)}\n" for pin in pins))
        requirements.flush()
        try:
            pip(
                "download", "--quiet", "--no-deps", "--require-hashes", *fitting(target),
                f"--dest={into}", f"--requirement={requirements.name}",
            )  # fmt: skip
        except PipFailed as failure:
            raise _unavailable(_called(what), target, failure) from None


def _exactly(pin: Pin) -> str:
    """The pin for pip, to which `==2.13.0` means 2.13.0+cpu too: of PyTorch that is another build."""
    built_apart = {package for one in frameworks.every().values() if one.cpu_wheel for package in one.packages.values()}
    return str(pin).replace("==", "===", 1) if pin.name in built_apart else str(pin)


def _download_cpu_wheel(package: str, version: str, *, into: Path, target: Target) -> tuple[Path, str]:
    """Download the CPU build and nothing else; gives its file and who offered it."""
    wheel = find_cpu_wheel(version=version, target=target)
    try:
        pip("download", "--quiet", "--no-deps", *fitting(target), f"--dest={into}", wheel.requirement)
    except PipFailed as failure:
        raise _unavailable(f"{package} {version} (CPU) from {wheel.origin}", target, failure) from None
    return next(into.glob(f"{package}-*.whl")), wheel.origin


def _held(wheel: Path) -> str:
    """The wheel's SHA-256; a name that is known with another hash is refused."""
    digest = locks.sha256(wheel)
    expected = locks.held_hash(wheel.name, digest)
    if expected != digest:
        raise EnvironmentUnavailable(
            f"{wheel.name} has SHA-256 {digest} where {expected} is locked: it is not the file that was recorded, "
            f"so it is refused; take it out of pip's find-links or index, or fetch it from another one"
        )
    return digest


def _resolve(*, framework: str, version: str, target: Target, progress: Progress) -> Lock:
    """Let pip resolve a version that has no lock, once: what it downloads is recorded as the lock."""
    with paths.exclusive(f"resolve-{framework}-{version}-{target.tag}"):
        known = locks.lock(framework=framework, version=version, target=target)
        if known:
            return known
        flavour = "" if target.flavour == "cpu" else f" ({target.flavour})"
        called = f"{frameworks.title(framework)} {version}{flavour}"
        progress(f"resolving {called} for Python {target.python}: recorded on first use")
        with tempfile.TemporaryDirectory(prefix="bench-", dir=paths.cache_root()) as scratch:
            wheels = _download_resolved(framework, version, into=Path(scratch), target=target, progress=progress)
            pins = [Pin(_name(wheel), _version(wheel).partition("+")[0], (_held(wheel),)) for wheel in wheels]
        return locks.save_resolved(framework=framework, version=version, target=target, pins=tuple(pins))


def _download_resolved(framework: str, version: str, *, into: Path, target: Target, progress: Progress) -> list[Path]:
    """The framework with all that it needs, and NumPy, which the workloads need.

    setuptools is asked for by name: pip judges its marker by the running Python, and torch.compile needs it.
    A CPU that no CPU build can be had for takes the CUDA build, gigabytes, and says so.
    """
    numpy = next(pin for pin in locks.committed_lock(framework).pins if pin.name == "numpy")
    known = frameworks.every()[framework]
    extra = f"[{known.extras[target.flavour]}]" if target.flavour in known.extras else ""
    wanted = f"{known.packages[target.flavour]}{extra}=={version}"
    if known.cpu_wheel:
        wheel = find_wheel(version=version, target=target)
        wanted = wheel.requirement
        if wheel.warning:
            progress(wheel.warning)
    for requirement in (f"numpy=={numpy.version}", "numpy"):  # the same NumPy as in the lock, if it can be
        shutil.rmtree(into, ignore_errors=True)
        try:
            pip("download", "--quiet", *fitting(target), f"--dest={into}", wanted, requirement, "setuptools")
            return sorted(into.glob("*.whl"))
        except PipFailed as failure:
            reason = failure
    raise _unavailable(f"{frameworks.title(framework)} {version}", target, reason)


def _called(lock: Lock) -> str:
    """Such as "TensorFlow 2.21.0 (cuda)"."""
    flavour = "" if lock.flavour == "cpu" else f" ({lock.flavour})"
    return f"{frameworks.title(lock.framework)} {lock.version}{flavour}"


def _folder(lock: Lock, target: Target) -> Path:
    name = f"{lock.framework}-{lock.version}-{target.flavour}-{target.tag}-{lock.digest}"
    return paths.cache_root() / "wheelhouse" / name


def _read(folder: Path) -> Wheelhouse | None:
    """The wheelhouse in `folder`, if it is complete."""
    try:
        manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text())
    except FileNotFoundError:
        return None
    return Wheelhouse(path=folder, **{"flavour": "cpu", **manifest, "notes": tuple(manifest["notes"])})


def _unavailable(what: str, target: Target, failure: PipFailed) -> EnvironmentUnavailable:
    return EnvironmentUnavailable(
        f"the wheels of {what} for Python {target.python} on {target.machine} cannot be had: {failure}; "
        f"check pip's index, proxy and certificate settings (pip config list) or give it the wheels with find-links"
    )


def _name(wheel: Path) -> str:
    return wheel.name.split("-")[0].lower().replace("_", "-")


def _version(wheel: Path) -> str:
    return wheel.name.split("-")[1]
