"""NumPy as a timed arm: the written-out references at the precision that is timed, on the CPU, in one mode."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from workloads.contract import Cell, Unsupported

TWIN = "reference"
_THREADS = ("scipy_openblas_get_num_threads64_", "scipy_openblas_get_num_threads", "openblas_get_num_threads")


def prepare(cell: Cell) -> None:
    """Nothing beyond the thread counts that every trial sets."""


def configure(cell: Cell) -> None:
    """Nothing to configure. Raises Unsupported: no such mode, no such device."""
    if cell.mode != "eager":
        raise Unsupported(f"numpy has no mode {cell.mode}; choose eager")
    if cell.device == "cuda":
        raise Unsupported("numpy computes on the CPU alone; choose device cpu")


def versions() -> dict[str, str]:
    """NumPy's is the worker's own."""
    return {}


def effective() -> dict[str, Any]:
    """Threads as the BLAS that came with NumPy reports them; None of another BLAS."""
    return {
        "intra_op_threads": _blas_threads(),
        "inter_op_threads": 1,
        "onednn": False,
        "tf32": False,
        "flush_denormals": False,
        "devices": ["cpu"],
        "build_cuda": False,
    }


def device_peak_memory_bytes() -> int | None:
    """No device."""
    return None


def wrap(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """Always eager."""
    return function


def compilations() -> int:
    """None ever."""
    return 0


def _blas_threads() -> int | None:
    for path in Path(np.__file__).parent.with_name("numpy.libs").glob("*openblas*"):
        library = ctypes.CDLL(str(path))
        for name in _THREADS:
            if hasattr(library, name):
                return int(getattr(library, name)())
    return None
