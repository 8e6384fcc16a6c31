"""From estimates to one word, its reason and its caveats: what may be claimed of a contrast (pure).

A nuisance bounds a claim, it does not forbid it: a drift or a disturbance is asked whether it could have made what is
claimed. A claim that stands beside one carries a caveat; one that does not stand says what failed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench import stats
from bench import text as words
from bench.stats import Contrast, Drift, Interval

if TYPE_CHECKING:
    from bench.estimate.course import Course

AGREEING_SHARE = 0.5  # of the claimed |log ratio|: by less do the estimates of a disturbed contrast differ
DIFFERENCE, PLAIN, EQUALITY = "difference", "plain difference", "equality"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a verdict is held against.

    target  wanted half-width of log ratio        family  contrasts of the run, Holm's m
    names   of baseline and arm, as readers know them
    remedy  what gives more blocks; or why there will be none
    """

    target: float = 0.01
    family: int = 1
    alpha: float = stats.ALPHA
    theta: float = stats.THETA
    names: tuple[str, str] = ("the baseline", "the arm")
    remedy: str = "raise blocks or the budget in the matrix"


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """A contrast's p values after Holm over its run, each kind a family of its own; None where it has none."""

    p: float | None = None
    p_t: float | None = None
    p_equal: float | None = None


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """Attempts of blocks that something else disturbed, and what the others and the CPU's own clock say.

    cause     of most of them
    every     from every attempt, the disturbed ones too
    cpu       of CPU times, which preemption does not touch, from every attempt; None where they are no measure of time:
              on a GPU, and where an arm has several threads
    """

    disturbed: int
    cause: str
    every: Contrast
    cpu: Contrast | None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a verdict is taken from.

    estimate     from the blocks that count (`records.counting`)
    drift        of the log ratio within these blocks, and how it went through them: course
    disturbance  None where nothing was disturbed
    """

    estimate: Contrast
    drift: Drift = field(default_factory=Drift)
    course: Course | None = None
    disturbance: Disturbance | None = None


@dataclass(frozen=True, kw_only=True)
class Caveat:
    """What stands beside a claim: its kind (drift, disturbed, short), a sentence, and the figures in it."""

    kind: str
    text: str
    figures: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As in the report."""
        return {"kind": self.kind, "text": self.text, "figures": dict(self.figures)}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One word of the ladder, its reason in plain English, and what to keep in mind beside it."""

    word: str
    reason: str
    caveats: tuple[Caveat, ...] = ()


def correct(estimates: Sequence[Contrast]) -> list[Corrected]:
    """Holm over a run's contrasts: differences, paired t tests alone, and equivalences."""
    families = (stats.holm([getattr(one, name) for one in estimates]) for name in ("p", "p_t", "p_equal"))
    return [Corrected(p=p, p_t=p_t, p_equal=p_equal) for p, p_t, p_equal in zip(*families, strict=True)]


def judge(evidence: Evidence, *, corrected: Corrected, rules: Rules) -> Verdict:
    """What may be claimed and stands: faster, slower, small, equivalent; else why not."""
    estimate = evidence.estimate
    if estimate.fault:
        return Verdict(word="failed", reason=estimate.fault)
    if estimate.ratio is None or estimate.half_width is None:
        return Verdict(
            word="inconclusive", reason=f"{_blocks(estimate.blocks)}: an interval takes at least 2; {rules.remedy}"
        )
    refusals = {claim: _refusal(claim, evidence, rules) for claim in _claims(estimate, corrected, rules)}
    standing = [claim for claim, refusal in refusals.items() if refusal is None]
    refused = next(filter(None, refusals.values()), None)
    if standing:
        word, reason = _claimed(standing, estimate, corrected, rules)
    elif refused:
        word, reason = refused
    elif evidence.drift.verdict:
        word, reason = evidence.drift.verdict, _drifting(evidence.drift, rules)
    else:
        word, reason = "inconclusive", _undecided(estimate, rules)
    return Verdict(word=word, reason=reason, caveats=tuple(_caveats(standing, evidence, corrected, rules)))


def _claims(estimate: Contrast, corrected: Corrected, rules: Rules) -> Iterator[str]:
    """What the numbers alone would claim."""
    too_few = stats.PLAIN_BLOCKS <= estimate.blocks < stats.blocks_to_claim(rules.family, rules.alpha)
    if _below(corrected.p, rules.alpha):
        yield DIFFERENCE
    elif too_few and estimate.plain_ci and _below(corrected.p_t, stats.PLAIN_ALPHA):
        yield PLAIN
    if _below(corrected.p_equal, rules.alpha):
        yield EQUALITY


def _refusal(claim: str, evidence: Evidence, rules: Rules) -> tuple[str, str] | None:
    """Word and reason, where a disturbance or a drift may have made this claim."""
    estimate, course = evidence.estimate, evidence.course
    if evidence.disturbance and (objection := _objection(claim, estimate, evidence.disturbance, rules)):
        advice = "stop what else runs (bench check names it) and measure again"
        return "invalid", f"{_claim(claim, estimate, rules)}, but {objection}: {advice}"
    if claim == EQUALITY:
        failing = course.failing_equality(math.log1p(rules.theta)) if course else []
    else:
        failing = course.failing_difference(math.log(estimate.ratio or 1.0)) if course else []
    if not failing:
        return None
    told = f"{_claim(claim, estimate, rules)} over whole blocks, yet that is not sure {' nor '.join(failing)}"
    if evidence.drift.shown:
        return evidence.drift.verdict or "inconclusive", f"{told}: {_drifting(evidence.drift, rules)}"
    return "inconclusive", f"{told}; more blocks would tell: {rules.remedy}"


def _objection(claim: str, estimate: Contrast, disturbance: Disturbance, rules: Rules) -> str | None:
    """What speaks against a claim beside a disturbance; None where every attempt and CPU time bear it out."""
    others = {"every attempt": disturbance.every} if disturbance.every.blocks != estimate.blocks else {}
    if disturbance.cpu:
        others["CPU time"] = disturbance.cpu
    if not others:
        return "every block was disturbed and nothing else can bear it out"
    return next(
        (told for name, other in others.items() if (told := _against(claim, estimate, name, other, rules))), None
    )


def _against(claim: str, estimate: Contrast, name: str, other: Contrast, rules: Rules) -> str | None:
    """What another estimate of a disturbed contrast says against the claim."""
    if other.ratio is None or other.ci is None or estimate.ratio is None:
        return f"{name} says nothing"
    if claim == EQUALITY:
        within = 1 / (1 + rules.theta) < other.ratio < 1 + rules.theta
        return None if within else f"{name} puts them {_percent(abs(other.ratio - 1))} apart"
    claimed, found = math.log(estimate.ratio), math.log(other.ratio)
    if not (other.ci[0] > 1 if claimed > 0 else other.ci[1] < 1):
        return f"{name} does not show it"
    apart = abs(found - claimed) >= AGREEING_SHARE * abs(claimed)
    return f"by {name} the difference is another one" if apart else None


def _claimed(standing: Sequence[str], estimate: Contrast, corrected: Corrected, rules: Rules) -> tuple[str, str]:
    if EQUALITY not in standing:
        word = "faster" if (estimate.ratio or 1.0) > 1 else "slower"
        return word, f"{_claim(DIFFERENCE, estimate, rules)}; {_p(standing, corrected)}"
    if len(standing) == 1:
        return "equivalent", _claim(EQUALITY, estimate, rules)
    difference = f"{_claim(DIFFERENCE, estimate, rules)}; {_p(standing, corrected)}"
    return "small", f"{difference}: a difference, and one of less than {_percent(rules.theta)}"


def _p(standing: Sequence[str], corrected: Corrected) -> str:
    p = corrected.p_t if PLAIN in standing else corrected.p
    assert p is not None
    return f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"


def _caveats(standing: Sequence[str], evidence: Evidence, corrected: Corrected, rules: Rules) -> Iterator[Caveat]:
    estimate, drift, disturbance = evidence.estimate, evidence.drift, evidence.disturbance
    if disturbance:
        yield Caveat(
            kind="disturbed", text=_disturbed(estimate, disturbance), figures=_estimates(estimate, disturbance)
        )
    if standing and drift.shown:
        figures = {"mean": drift.mean, "ci": list(drift.ci) if drift.ci else None}
        yield Caveat(
            kind="drift", text=f"{_drifting(drift, rules)}; the claim holds in every part of it", figures=figures
        )
    if PLAIN in standing and estimate.plain_ci:
        text = (
            f"{_blocks(estimate.blocks)}: claimed because all of them agree and the ratio is 99 % sure to lie from "
            f"{_between(estimate.plain_ci)}, beyond 10 %; a smaller difference takes "
            f"{stats.blocks_to_claim(rules.family, rules.alpha)} blocks"
        )
        figures = {"blocks": estimate.blocks, "ci_99": list(estimate.plain_ci), "p_t_holm": corrected.p_t}
        yield Caveat(kind="short", text=text, figures=figures)


def _estimates(estimate: Contrast, disturbance: Disturbance) -> dict[str, Any]:
    """The three estimates of a disturbed contrast."""
    told = {"counted": estimate, "every_attempt": disturbance.every, "cpu_time": disturbance.cpu}
    figures = {
        name: None
        if one is None
        else {"ratio": one.ratio, "ci": list(one.ci) if one.ci else None, "blocks": one.blocks}
        for name, one in told.items()
    }
    return {"disturbed": disturbance.disturbed, "attempts": disturbance.every.blocks, **figures}


# --- sentences


def _claim(claim: str, estimate: Contrast, rules: Rules) -> str:
    """What is claimed, for a reader who knows no statistics."""
    assert estimate.ratio is not None
    baseline, arm = rules.names
    if claim == EQUALITY:
        low, high = estimate.ci or (math.nan, math.nan)
        return f"{arm} and {baseline} are as fast within {_percent(rules.theta)} (ratio {_between((low, high))})"
    quicker = estimate.ratio > 1
    quick, slow = (arm, baseline) if quicker else (baseline, arm)
    times = words.ratio(max(estimate.ratio, 1 / estimate.ratio))
    return f"{quick} is {times} times as fast as {slow} ({_between(_oriented(estimate, quicker))}, 95 % sure)"


def _undecided(estimate: Contrast, rules: Rules) -> str:
    """What it may be, and what it would take to know."""
    baseline, arm = rules.names
    half = estimate.half_width or 0.0
    low_high = _between(estimate.ci) if estimate.ci else "anything"
    told = f"{arm} is anything from {low_high} times as fast as {baseline} (± {_percent(half)})"
    enough = stats.blocks_to_claim(rules.family, rules.alpha)
    if estimate.blocks < enough:
        plain = "only a plain difference, of over 10 %" if estimate.blocks >= stats.PLAIN_BLOCKS else "nothing"
        return f"{told}; {_blocks(estimate.blocks)} can claim {plain}, any difference takes {enough}: {rules.remedy}"
    told += _no_claim_alone(estimate, rules)
    target = rules.target if half > rules.target else half / 2
    needed = stats.blocks_needed(estimate.spread, target) if estimate.spread and target > 0 else None
    if needed is None:
        return f"{told}; blocks scatter too much for any number of them: bench check says what makes this machine noisy"
    more = max(1, needed - estimate.blocks)
    return f"{told}; about {more} more {'block' if more == 1 else 'blocks'} give ± {_percent(target)}: {rules.remedy}"


def _no_claim_alone(estimate: Contrast, rules: Rules) -> str:
    """Why an interval that leaves out 1 is no claim; empty where it holds 1."""
    if not estimate.ci or estimate.ci[0] <= 1 <= estimate.ci[1]:
        return ""
    if _below(estimate.p, rules.alpha):
        return f": alone it would be a difference, but among {rules.family} contrasts chance shows some like it"
    return ": the paired t test calls that a difference, Wilcoxon's signed ranks do not"


def _drifting(moved: Drift, rules: Rules) -> str:
    assert moved.mean is not None
    assert moved.ci is not None
    baseline, arm = rules.names
    slower, other = (arm, baseline) if moved.mean < 0 else (baseline, arm)
    low, high = sorted(abs(end) for end in moved.ci)
    if moved.ci[0] < 0 < moved.ci[1]:
        low = 0.0
    size = _percent(abs(moved.mean))
    return f"within a block {slower} slows by {size} against {other} ({_percent(low)} to {_percent(high)}, 99 % sure)"


def _disturbed(estimate: Contrast, disturbance: Disturbance) -> str:
    whole = estimate.blocks == disturbance.every.blocks
    parts = [f"ratio {_told(estimate)} in {'all of them' if whole else 'the undisturbed ones'}"]
    if not whole:
        parts.append(f"{_told(disturbance.every)} in every attempt")
    if disturbance.cpu:
        parts.append(f"{_told(disturbance.cpu)} in CPU time")
    many = f"{disturbance.disturbed} of {_blocks(disturbance.every.blocks)}"
    return f"{many} disturbed ({disturbance.cause}); {', '.join(parts)}"


def _told(one: Contrast) -> str:
    if one.ratio is None:
        return "no ratio"
    return f"{words.ratio(one.ratio)} ({_between(one.ci)})" if one.ci else words.ratio(one.ratio)


def _oriented(estimate: Contrast, quicker: bool) -> Interval:
    low, high = estimate.ci or (math.nan, math.nan)
    return (low, high) if quicker else (1 / high, 1 / low)


def _between(ends: Interval) -> str:
    return f"{words.ratio(ends[0])} to {words.ratio(ends[1])}"


def _below(p: float | None, limit: float) -> bool:
    return p is not None and p < limit


def _blocks(count: int) -> str:
    return "1 block" if count == 1 else f"{count} blocks"


def _percent(fraction: float) -> str:
    """A fraction to two significant digits, at least one decimal where it is not whole: "3.1 %", "0.42 %", "1 %"."""
    value = 100 * fraction
    return f"{value:.0f} %" if value >= 99.5 else f"{float(f'{value:.2g}'):g} %"
