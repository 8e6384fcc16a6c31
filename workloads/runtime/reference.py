"""The reference: NumPy alone, float64, eager; the same names as a framework's runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workloads.contract import Cell


def prepare(cell: Cell) -> None:
    """Nothing beyond the thread counts that every trial sets."""


def configure(cell: Cell) -> None:
    """Nothing to configure: it is never timed."""


def versions() -> dict[str, str]:
    """No framework; NumPy's version is the worker's own."""
    return {}


def effective() -> dict[str, Any]:
    """No flags."""
    return {}


def device_peak_memory_bytes() -> int | None:
    """No device."""
    return None


def wrap(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """Always eager."""
    return function


def compilations() -> int:
    """None ever."""
    return 0
