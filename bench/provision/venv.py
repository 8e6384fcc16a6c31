"""One virtual environment a framework, made on first use from the same locked wheels as its image."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import frameworks, paths
from bench.errors import EnvironmentUnavailable
from bench.provision import locks
from bench.provision import wheels as wheelhouse
from bench.provision.locks import Target
from bench.provision.pip import PipFailed, pip, uv, uv_binary

if TYPE_CHECKING:
    from bench.provision.wheels import Wheelhouse

_MARKER = "bench.json"  # written last: an environment without it is unfinished

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Environment:
    """A finished virtual environment; `python` is its interpreter, `notes` are for a report."""

    python: Path
    framework: str
    version: str
    flavour: str
    lock_hash: str
    notes: tuple[str, ...]


def environment(*, framework: str, version: str | None = None, flavour: str = "cpu", progress: Progress) -> Environment:
    """The environment of a framework under the running interpreter's Python; made once, then found in milliseconds.

    It is built in place, because scripts hold absolute paths, and counts only once its marker is there.
    raises  EnvironmentUnavailable: a Python outside the locks, no wheels, or no way to make an environment
    """
    target = Target(f"{sys.version_info.major}.{sys.version_info.minor}", flavour=flavour)
    lock = locks.lock(framework=framework, version=version, target=target)
    found = _read(_folder(framework, lock.version, lock.digest, target)) if lock else None
    if found:
        return found
    wheels = wheelhouse.gather(
        framework=framework, version=version, python=target.python, flavour=flavour, progress=progress
    )
    folder = _folder(framework, wheels.version, wheels.lock_hash, target)
    with paths.exclusive(f"environment-{folder.name}"):
        found = _read(folder)  # somebody else may have been first
        if found:
            return found
        progress(f"making the environment of {framework} {wheels.version}" + (" (cuda)" if flavour == "cuda" else ""))
        shutil.rmtree(folder, ignore_errors=True)
        _make(folder)
        _install(folder, wheels)
        _drop_unused(folder, framework)
        return _finish(folder, wheels)


def _make(folder: Path) -> None:
    """An empty environment on the interpreter that bench's own environment stands on, with uv or with venv."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        if uv_binary():
            uv("venv", "--quiet", "--no-project", f"--python={_base_interpreter()}", str(folder))
            return
        command = [_base_interpreter(), "-m", "venv", "--without-pip", str(folder)]
        subprocess.run(command, check=True, capture_output=True)
    except (PipFailed, OSError, subprocess.CalledProcessError) as failure:
        raise EnvironmentUnavailable(
            f"no virtual environment can be made with {_base_interpreter()} ({failure}); "
            f"on Debian and Ubuntu: sudo apt-get install python3-venv"
        ) from None


def _install(folder: Path, wheels: Wheelhouse) -> None:
    """Install the wheelhouse offline, every file held to its hash, and compile its bytecode once for all workers."""
    offline = ["--no-index", f"--find-links={wheels.path}", "--no-deps", "--require-hashes"]
    what = f"--requirement={wheels.requirements}"
    python = folder / "bin" / "python"
    try:
        if uv_binary():
            uv("pip", "install", "--quiet", "--compile-bytecode", *offline, f"--python={python}", what)
        else:
            pip(f"--python={python}", "install", "--quiet", "--compile", *offline, what)
    except PipFailed as failure:
        raise EnvironmentUnavailable(
            f"{wheels.framework} {wheels.version} cannot be installed from {wheels.path}: {failure}; "
            f"remove that folder, and it is downloaded again"
        ) from None


def _drop_unused(folder: Path, framework: str) -> None:
    """What the image leaves out too: a fifth of the files, used by no workload."""
    if unused_folder := frameworks.every()[framework].unused:
        for unused in folder.glob(f"lib/python3*/site-packages/{unused_folder}"):
            shutil.rmtree(unused)


def _finish(folder: Path, wheels: Wheelhouse) -> Environment:
    """Write the marker that makes the environment count."""
    marker = {"framework": wheels.framework, "version": wheels.version, "flavour": wheels.flavour}
    marker |= {"lock_hash": wheels.lock_hash}
    partial = folder / f".{_MARKER}"
    partial.write_text(json.dumps({**marker, "notes": wheels.notes}))
    partial.replace(folder / _MARKER)
    found = _read(folder)
    if found is None:
        raise EnvironmentUnavailable(f"{folder}/bin/python does not start; remove that folder and try again")
    return found


def _read(folder: Path) -> Environment | None:
    """The environment in `folder`, if it is finished and its interpreter still exists."""
    python = folder / "bin" / "python"
    try:
        marker: dict[str, Any] = json.loads((folder / _MARKER).read_text())
    except FileNotFoundError:
        return None
    if not os.access(python, os.X_OK):
        return None
    return Environment(python=python, **{"flavour": "cpu", **marker, "notes": tuple(marker["notes"])})


def _folder(framework: str, version: str, lock_hash: str, target: Target) -> Path:
    """One folder for each framework, lock and interpreter: an upgraded Python gets an environment of its own."""
    interpreter = hashlib.sha256(f"{_base_interpreter()} {sys.version}".encode()).hexdigest()[:8]
    name = f"{framework}-{version}-{target.flavour}-{target.tag}-{lock_hash}-{interpreter}"
    return paths.cache_root() / "environments" / name


def _base_interpreter() -> str:
    """The interpreter beneath any virtual environment that bench itself runs in."""
    return getattr(sys, "_base_executable", None) or sys.executable
