"""What one test of the harness found, against its goal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bench import stats


@dataclass(frozen=True, kw_only=True)
class Row:
    """One test of the harness: what was obtained against its goal.

    n       observations behind the value
    value   in `unit`, None where nothing was measured: such a row never passes
    ci      95 %, of the value
    raises  ValueError: a number that is not finite, or a pass without a value
    """

    name: str
    n: int
    value: float | None
    ci: tuple[float, float] | None
    goal: str
    passed: bool
    unit: str = ""
    detail: str = ""

    def __post_init__(self) -> None:
        numbers = [number for number in (self.value, *(self.ci or ())) if number is not None]
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"{self.name}: {numbers} are no results; give None for what was not measured")
        if self.passed and self.value is None:
            raise ValueError(f"{self.name}: passed without a value; a test that measured nothing has not passed")

    def to_json(self) -> dict[str, Any]:
        """The row as plain JSON values, the interval as a list."""
        return {**asdict(self), "ci": list(self.ci) if self.ci else None}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Row:
        """The inverse of `to_json`."""
        return cls(**{**plain, "ci": tuple(plain["ci"]) if plain["ci"] else None})

    @property
    def found(self) -> str:
        """The value with its unit: "4.2 %", "303 ns", "1.0004"."""
        return "—" if self.value is None else _written(self.value, self.unit)

    @property
    def interval(self) -> str:
        """Both ends, or nothing."""
        return f"{_written(self.ci[0], self.unit)} to {_written(self.ci[1], self.unit)}" if self.ci else "—"

    @property
    def told(self) -> str:
        """Value and interval in one phrase."""
        return f"{self.found} ({self.interval})"


def clopper_pearson(hits: int, n: int, confidence: float = stats.CONFIDENCE) -> tuple[float, float]:
    """The exact interval of a proportion, two-sided; n at least 1.

    source   Clopper & Pearson 1934, doi:10.1093/biomet/26.4.404
    """
    from scipy import stats as scipy_stats

    interval = scipy_stats.binomtest(hits, n).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def at_least(name: str, hits: int, n: int, least: float, *, detail: str = "") -> Row:
    """A share that must reach `least`."""
    passed = n > 0 and hits / n >= least
    return _share(name, hits, n, goal=f"≥ {percent(least)}", limit=least, passed=passed, detail=detail)


def at_most(name: str, hits: int, n: int, most: float, *, detail: str = "") -> Row:
    """A share that must not exceed `most`; with 0, a thing that must never happen."""
    goal = f"≤ {percent(most)}" if most else "never"
    return _share(name, hits, n, goal=goal, limit=most, passed=n > 0 and hits / n <= most, detail=detail)


def not_above(name: str, hits: int, n: int, most: float, *, detail: str = "") -> Row:
    """A share of which n observations must not show that it exceeds `most`: the interval's lower end decides."""
    passed = n > 0 and clopper_pearson(hits, n)[0] <= most
    return _share(name, hits, n, goal=f"lower bound ≤ {percent(most)}", limit=most, passed=passed, detail=detail)


def not_below(name: str, hits: int, n: int, least: float, *, detail: str = "") -> Row:
    """A share of which n observations must not show that it stays under `least`: the interval's upper end decides."""
    passed = n > 0 and clopper_pearson(hits, n)[1] >= least
    return _share(name, hits, n, goal=f"upper bound ≥ {percent(least)}", limit=least, passed=passed, detail=detail)


def percent(share: float) -> str:
    """A share to four digits: "93 %", "6.5 %", "99.9 %"."""
    return f"{100 * share:.4g} %"


def _written(value: float, unit: str) -> str:
    if unit == "share":
        return percent(value)
    if unit == "ratio":
        return f"{value:.4f}"
    return f"{value:.4g} {unit}".strip()


def _share(name: str, hits: int, n: int, *, goal: str, limit: float, passed: bool, detail: str) -> Row:
    if n == 0:
        return Row(name=name, n=0, value=None, ci=None, goal=goal, passed=False, detail="nothing was measured")
    ci = clopper_pearson(hits, n)
    straddles = f"its interval straddles {percent(limit)}" if ci[0] < limit < ci[1] else ""
    said = "; ".join(part for part in (detail, straddles) if part)
    return Row(name=name, n=n, value=hits / n, ci=ci, goal=goal, passed=passed, unit="share", detail=said)
