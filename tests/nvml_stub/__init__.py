"""A stub of NVML's library, compiled against NVIDIA's own nvml.h, and the stub hook and runtime that hand it out.

It replays `trace.csv`, which is INVENTED and was never measured, and calls itself a replay. What reads it, reads it
through the real binding.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).parent
UUID = "GPU-53545542-0000-4000-8000-000000000000"
NAME = "STUB-GPU (replay)"
DRIVER = "0.0-stub"
LIBRARY = "libnvidia-ml.so.1"
HOOK = "nvidia-container-runtime-hook"


def absence() -> str | None:
    """Why it cannot be built here; None where it can."""
    if not shutil.which("gcc"):
        return "there is no gcc to build a stub of NVML's library with"
    try:
        header()
    except importlib.metadata.PackageNotFoundError:
        return "nvidia-nvml-dev with NVIDIA's nvml.h is not installed; pip install -e '.[test]'"
    return None


def header() -> Path:
    """NVIDIA's own nvml.h, in the package that pip installed."""
    files = importlib.metadata.files("nvidia-nvml-dev") or []
    return Path(next(str(file.locate()) for file in files if file.name == "nvml.h"))


def build(folder: Path, *, uuid: str = UUID, trace: Path | None = HERE / "trace.csv") -> Path:
    """Compile it into `folder`, which LD_LIBRARY_PATH then takes, with a trace beside it; gives the library."""
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / LIBRARY
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", f'-DUUID="{uuid}"', f"-Wl,-soname,{LIBRARY}"]
    command = ["gcc", *options, f"-I{header().parent}", "-o", library, HERE / "nvml.c"]
    subprocess.run(command, check=True)
    if trace:
        shutil.copyfile(trace, folder / "trace.csv")
    return library


def write_trace(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    """A trace of these rows; a value that is missing is not supported, "!15" answers NVML's error 15."""
    table = list(rows)
    names = list(dict.fromkeys(name for row in table for name in row))
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in table)]
    path.write_text("\n".join(lines) + "\n")
    return path


def steady(seconds: float, *, watts: float, every_s: float = 0.1, **fields: object) -> Iterator[dict[str, object]]:
    """Rows of a GPU at constant power whose energy counter moves every so many seconds."""
    for place in range(round(seconds / every_s)):
        at_s = round(place * every_s, 6)
        yield {"time_s": at_s, "power_mw": round(watts * 1000), "energy_mj": round(watts * 1000 * at_s), **fields}


def install_hook(folder: Path, library: Path) -> Path:
    """The stub hook, to be found by an engine with `folder` before its PATH; it gives containers the library."""
    return _script(folder / HOOK, HERE / "hook.py", library)


def install_runtime(folder: Path, hook: Path) -> Path:
    """The stub runtime, for an engine's `--add-runtime=nvidia=…`."""
    return _script(folder / "nvidia-container-runtime", HERE / "runtime.py", hook)


def _script(path: Path, python: Path, argument: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {python} {argument} "$@"\n')
    path.chmod(0o755)
    return path
