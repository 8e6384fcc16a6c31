"""What one test of the harness found, against its goal: passed, failed, or not decided by what was measured.

A row passes where its goal's own criterion holds. It fails only where the exact interval lies wholly on the wrong side
of the goal. Between the two it is undecided, as it is where the machine left too little to measure: a noisy host is no
evidence against the harness, and no pass either. A thing that must never happen fails when it happens once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bench import stats

Outcome = Literal["passed", "undecided", "failed"]
PASSED: dict[Outcome, bool | None] = {"passed": True, "undecided": None, "failed": False}  # as JSON has it
MARKS: dict[Outcome, str] = {"passed": "✓", "undecided": "?", "failed": "✗"}
CALMER = "a calmer machine would decide"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One test of the harness: what was obtained against its goal.

    n       observations behind the value
    value   in `unit`, None where nothing was measured: such a row never passes
    ci      95 %, of the value
    detail  how it was measured; of an undecided row also what would decide it
    raises  ValueError: a number that is not finite, or a pass without a value
    """

    name: str
    n: int
    value: float | None
    ci: stats.Interval | None
    goal: str
    outcome: Outcome
    unit: str = ""
    detail: str = ""

    def __post_init__(self) -> None:
        numbers = [number for number in (self.value, *(self.ci or ())) if number is not None]
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"{self.name}: {numbers} are no results; give None for what was not measured")
        if self.outcome == "passed" and self.value is None:
            raise ValueError(f"{self.name}: passed without a value; a test that measured nothing has not passed")

    def to_json(self) -> dict[str, Any]:
        """The row as plain JSON values, the interval as a list; `passed` is true, false, or null where undecided."""
        return {**asdict(self), "ci": list(self.ci) if self.ci else None, "passed": PASSED[self.outcome]}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Row:
        """The inverse of `to_json`; also of a row that an earlier version kept, which knew passed and failed alone."""
        kept = dict(plain)
        passed = kept.pop("passed")
        kept.setdefault("outcome", "passed" if passed else "failed")
        return cls(**{**kept, "ci": tuple(kept["ci"]) if kept["ci"] else None})

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

    @property
    def line(self) -> str:
        """As it is told while a validation goes on."""
        undecided = f"; undecided: {self.detail}" if self.outcome == "undecided" else ""
        return f"{MARKS[self.outcome]} {self.name}: {self.told} (n = {self.n:,}, goal {self.goal}){undecided}"


def outcome(
    holds: bool, ci: stats.Interval | None, *, low: float = -math.inf, high: float = math.inf, enough: bool = True
) -> Outcome:
    """Of a goal whose values lie from `low` to `high`.

    holds   the goal's own criterion
    enough  whether as much was measured as was wanted: less can speak against the harness, and never for it
    """
    if holds and enough:
        return "passed"
    return "failed" if ci is not None and (ci[1] < low or ci[0] > high) else "undecided"


def clopper_pearson(hits: int, n: int, confidence: float = stats.CONFIDENCE) -> stats.Interval:
    """The exact interval of a proportion, two-sided; n at least 1.

    source   Clopper & Pearson 1934, doi:10.1093/biomet/26.4.404
    """
    from scipy import stats as scipy_stats

    interval = scipy_stats.binomtest(hits, n).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def at_least(name: str, hits: int, n: int, least: float, *, wanted: int = 1, detail: str = "") -> Row:
    """A share that must reach `least`; under `wanted` observations nothing has been shown for it."""
    holds = n > 0 and hits / n >= least
    return share(name, hits, n, goal=f"≥ {percent(least)}", low=least, holds=holds, wanted=wanted, detail=detail)


def at_most(name: str, hits: int, n: int, most: float, *, wanted: int = 1, detail: str = "") -> Row:
    """A share that must not exceed `most`; with 0, a thing that must never happen."""
    goal = f"≤ {percent(most)}" if most else "never"
    holds = n > 0 and hits / n <= most
    return share(name, hits, n, goal=goal, high=most, holds=holds, wanted=wanted, detail=detail)


def not_above(name: str, hits: int, n: int, most: float, *, wanted: int = 1, detail: str = "") -> Row:
    """A share of which n observations must not show that it exceeds `most`: the interval's lower end decides."""
    holds = n > 0 and clopper_pearson(hits, n)[0] <= most
    goal = f"lower bound ≤ {percent(most)}"
    return share(name, hits, n, goal=goal, high=most, holds=holds, wanted=wanted, detail=detail)


def not_below(name: str, hits: int, n: int, least: float, *, wanted: int = 1, detail: str = "") -> Row:
    """A share of which n observations must not show that it stays under `least`: the interval's upper end decides."""
    holds = n > 0 and clopper_pearson(hits, n)[1] >= least
    goal = f"upper bound ≥ {percent(least)}"
    return share(name, hits, n, goal=goal, low=least, holds=holds, wanted=wanted, detail=detail)


def share(
    name: str,
    hits: int,
    n: int,
    *,
    goal: str,
    holds: bool,
    low: float = 0.0,
    high: float = 1.0,
    wanted: int = 1,
    detail: str = "",
) -> Row:
    """A share with its exact interval against a goal of `low` to `high`; `holds` is the goal's own criterion."""
    if n == 0:
        nothing = f"{detail}; nothing of it can be judged; {CALMER}" if detail else f"nothing was measured; {CALMER}"
        return Row(name=name, n=0, value=None, ci=None, goal=goal, outcome="undecided", detail=nothing)
    ci = clopper_pearson(hits, n)
    found = outcome(holds, ci, low=low, high=high, enough=n >= wanted)
    limits = [limit for limit in (low, high) if ci[0] < limit < ci[1]]
    said = [detail, *(f"its interval straddles {percent(limit)}" for limit in limits)]
    if n < wanted:
        said.append(f"the machine left {n} of the {wanted} wanted; {CALMER}")
    elif found == "undecided":
        said.append("more of them would decide")
    told = "; ".join(part for part in said if part)
    return Row(name=name, n=n, value=hits / n, ci=ci, goal=goal, outcome=found, unit="share", detail=told)


def percent(share: float) -> str:
    """A share to four digits: "93 %", "6.5 %", "99.9 %"."""
    return f"{100 * share:.4g} %"


def _written(value: float, unit: str) -> str:
    if unit == "share":
        return percent(value)
    if unit == "ratio":
        return f"{value:.4f}"
    return f"{value:.4g} {unit}".strip()
