"""Samples of turns to rows: does each tool agree with the harness, and if not, why. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from bench import stats

ALPHA = stats.ALPHA
THETA = 0.02
HARNESS = "harness"
CONTROLS = ("harness again", "harness, collector off")
COLLECTOR_OFF = {"torch.utils.benchmark"}  # through timeit
STATISTICS = {
    "harness again": "total of a slice ÷ its steps, once more in the same round",
    "harness, collector off": "total of a slice ÷ its steps, garbage collector off",
    "pytest-benchmark": "mean of one pedantic round of as many iterations; its table leads with the fastest round",
    "pyperf": "one value, total ÷ loops, in worker mode in this process; it prints the mean over processes",
    "torch.utils.benchmark": "mean of one timeit; its blocked_autorange prints the median over blocks",
}

Samples = Mapping[tuple[str, bool], Mapping[int, float]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One tool against the harness on one step.

    n            rounds: pairs of turns         ratio, ci    time by the tool ÷ time by the harness, 95 %
    steps        of a turn                      own_cost_ns  of its loop, a step, beyond the harness's own
    passed       TOST within ± 2 %              reason       empty where it passed
    """

    tool: str
    step: str
    clock: str
    n: int
    steps: int
    step_us: float
    ratio: float | None
    ci: tuple[float, float] | None
    goal: str
    passed: bool
    statistic: str
    own_cost_ns: float
    reason: str

    @property
    def verdict(self) -> str:
        """Agrees, differs, or undecided: the interval reaches into the zone of agreement and out of it."""
        return "agrees" if self.passed else "differs" if _apart(self.ci) else "undecided"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {**asdict(self), "verdict": self.verdict}


def rows(step: str, samples: Sequence[Mapping[str, Any]], *, clock: str = "wall") -> list[Row]:
    """A row for every tool of the samples, controls first; `step` names what was stepped, `clock` what timed it."""
    by_tool: dict[tuple[str, bool], dict[int, float]] = {}
    for sample in samples:
        by_tool.setdefault((sample["tool"], sample["empty"]), {})[sample["round"]] = sample["step_s"]
    steps = max((sample["steps"] for sample in samples if not sample["empty"]), default=0)
    order = [*CONTROLS, *(tool for tool in STATISTICS if tool not in CONTROLS)]
    return [_row(step, tool, by_tool, clock=clock, steps=steps) for tool in order if (tool, False) in by_tool]


def _row(step: str, tool: str, samples: Samples, *, clock: str, steps: int) -> Row:
    estimate = stats.contrast(_pairs(tool, samples), theta=THETA)
    passed = estimate.p_equal is not None and estimate.p_equal < ALPHA
    return Row(
        tool=tool,
        step=step,
        clock=clock,
        n=estimate.blocks,
        steps=steps,
        step_us=1e6 * median(samples[tool, False].values()),
        ratio=estimate.ratio,
        ci=estimate.ci,
        goal=f"TOST within ± {100 * THETA:g} %",
        passed=passed,
        statistic=STATISTICS[tool],
        own_cost_ns=_own_cost_ns(tool, samples),
        reason="" if passed else _reason(tool, samples, estimate),
    )


def _pairs(tool: str, samples: Samples, *, base: str = HARNESS) -> list[float]:
    """log(t_tool / t_base), one a round that has both."""
    own, other = samples[tool, False], samples[base, False]
    both = sorted(own.keys() & other.keys())
    return [float(d) for d in stats.log_ratios([own[i] for i in both], [other[i] for i in both])]


def _own_cost_ns(tool: str, samples: Samples) -> float:
    """Median time of an empty step under the tool, less the harness's."""
    return 1e9 * (median(samples[tool, True].values()) - median(samples[HARNESS, True].values()))


def _reason(tool: str, samples: Samples, estimate: stats.Contrast) -> str:
    if estimate.fault or estimate.ratio is None or estimate.ci is None or estimate.half_width is None:
        return estimate.fault or f"{estimate.blocks} rounds: an interval takes at least 2"
    if not _apart(estimate.ci):
        return _undecided(samples, estimate)
    differs = f"differs by {_percent(math.log(estimate.ratio))}"
    causes, rest = _causes(tool, samples)
    told = " and ".join(f"{cause} ({_percent(log)})" for cause, log in causes.items())
    if rest.p_equal is not None and rest.p_equal < ALPHA:
        return f"{differs}, which is explained: {told}"
    return f"{differs}, which is not explained by what was measured: {told}"


def _apart(ci: tuple[float, float] | None) -> bool:
    """Whether the interval of a ratio lies wholly outside ± 2 %."""
    return ci is not None and (ci[1] <= 1 / (1 + THETA) or ci[0] >= 1 + THETA)


def _undecided(samples: Samples, estimate: stats.Contrast) -> str:
    """The interval reaches into the zone of agreement and out of it: how noisy was it, how many rounds would do."""
    assert estimate.half_width is not None
    noise = stats.half_width(_pairs(CONTROLS[0], samples))
    needed = stats.blocks_needed(estimate.spread or math.inf, THETA / 2)
    more = f"some {needed} rounds would decide" if needed else "no number of rounds would decide"
    return (
        f"undecided: ± {100 * estimate.half_width:.1f} % after {estimate.blocks} rounds, where the harness against "
        f"itself has ± {100 * noise:.1f} %; {more}"
    )


def _causes(tool: str, samples: Samples) -> tuple[dict[str, float], stats.Contrast]:
    """What was measured beside it, as log ratios, and what of the tool's ratio is left without it, round by round."""
    own_cost_ns = _own_cost_ns(tool, samples)
    own_cost = math.log1p(own_cost_ns / 1e9 / median(samples[HARNESS, False].values()))
    causes = {f"its loop costs {own_cost_ns:.0f} ns a step more": own_cost}
    base = HARNESS
    if tool in COLLECTOR_OFF:
        base = CONTROLS[1]
        causes["it turns the garbage collector off"] = float(np.mean(_pairs(base, samples)))
    rest = np.asarray(_pairs(tool, samples, base=base)) - own_cost
    return causes, stats.contrast(rest, theta=THETA)


def _percent(log: float) -> str:
    return f"{100 * math.expm1(log):+.1f} %"
