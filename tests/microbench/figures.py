"""A figure of a micro-benchmark, in the unit that its docstring speaks of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Each = Callable[..., Any]  # the fixture of conftest.py

UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """The time of one thing in seconds, median and least of the rounds, and the most that is still good.

    The least is what a busy machine spoils last; the median is judged.
    """

    what: str
    median_s: float
    least_s: float
    good_s: float

    def __str__(self) -> str:
        verdict = "good" if self.median_s <= self.good_s else "OVER"
        times = f"{in_words(self.median_s):>8}, least {in_words(self.least_s):>8}"
        return f"{self.what:<38} {times}   good: up to {in_words(self.good_s):>6}   {verdict}"


def in_words(seconds: float) -> str:
    """Three significant digits in the largest unit that leaves a whole part: "1.23 ms", "60 s"."""
    unit = next((name for name, size in UNITS.items() if seconds >= size), "ns")
    return f"{float(f'{seconds / UNITS[unit]:.3g}'):g} {unit}"
