"""scikit-learn: threads and versions; it has one mode, on the CPU. Effective values, as its libraries report them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any

from workloads.contract import Cell, Unsupported


def prepare(cell: Cell) -> None:
    """Nothing beyond the thread counts that every trial sets."""


def configure(cell: Cell) -> None:
    """Nothing to configure. Raises Unsupported: no such mode, no such device."""
    if cell.mode != "eager":
        raise Unsupported(f"sklearn has no mode {cell.mode}; choose eager")
    if cell.device == "cuda":
        raise Unsupported("sklearn computes on the CPU alone; choose device cpu")


def versions() -> dict[str, str]:
    """Versions of what computes."""
    return {name: metadata.version(name) for name in ("scikit-learn", "scipy")}


def effective() -> dict[str, Any]:
    """Threads as the loaded libraries report them."""
    from threadpoolctl import threadpool_info

    return {
        "intra_op_threads": max((pool["num_threads"] for pool in threadpool_info()), default=1),
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
