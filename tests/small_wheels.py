"""Wheels of nothing, that pip and uv accept: for whatever is about downloading, locking and installing."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from bench.provision.locks import Target

MACHINE = Target("3.11").machine
CUDA = ("nvidia-cublas==13.1.1.3; platform_system == 'Linux'",)


def make_wheel(
    folder: Path, name: str, version: str, *, tags: str = "py3-none-any", needs: tuple[str, ...] = (), text: str = ""
) -> Path:
    """A wheel that pip accepts, with one module that holds `text`."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
    path = folder / f"{name}-{version}-{tags}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", text)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tags}\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def make_torch(folder: Path, version: str, *, python: str = "cp311", **more: object) -> Path:
    """A wheel of nothing, called torch."""
    tags = f"{python}-{python}-manylinux_2_28_{MACHINE}"
    return make_wheel(folder, "torch", version, tags=tags, **more)  # type: ignore[arg-type]


def digest(path: Path) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
