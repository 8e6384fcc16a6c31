"""Samples to estimates, intervals and verdicts: pure functions of numbers, no clock, no files.

The unit of inference is the block. d, one number a block, is the mean over rounds of log(t_baseline / t_arm), so that
ratio = exp(mean d) is above 1 where the arm is faster.

source   Kalibera & Jones 2013, doi:10.1145/2464157.2464160; Georges et al. 2007, doi:10.1145/1297027.1297033
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = Sequence[float] | npt.NDArray[np.float64]

ALPHA = 0.05
CONFIDENCE = 0.95
THETA = 0.02  # two times that differ by less are equivalent
STEADY = 0.01  # a drift of the ratio within ± 1 % is steady
# Of the drift's interval: at 95 %, 2 to 3 % of steady contrasts with 6 to 10 blocks were called degrading (simulated).
DRIFT_CONFIDENCE = 0.99
# A difference that few blocks may claim: over a tenth with 99 %, seen in every block, p of the paired t under α/10.
PLAIN = 0.1
PLAIN_CONFIDENCE = 0.99
PLAIN_BLOCKS = 4
PLAIN_ALPHA = ALPHA / 10
MIN_TRIALS = 6  # the least for an order-statistic interval of a median: 2 · 0.5⁶ ≤ 0.05
MIN_ROUNDS = 6  # two a third
# The fewest steps that can bound a percentile with 99 % confidence: LoadGen's early stopping, arXiv:1911.02549.
MIN_STEPS = {0.9: 64, 0.99: 662, 0.999: 6636}
_MOST_BLOCKS = 10_000
_LARGEST_LOG = 300.0  # exp of more than twice this overflows; no two steps differ by e³⁰⁰

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A cell's own number: the median over trials and its exact order-statistic interval, None under 6 trials."""

    median: float
    ci: Interval | None


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """What the blocks say about one pair; None where they cannot say it.

    half_width  of the 95 % interval of log ratio
    p           the larger of paired t and Wilcoxon: both must agree
    p_t         of the paired t alone
    p_equal     two one-sided t tests of |log ratio| < log(1 + θ)
    plain_ci    99 % interval of the ratio, where every block lies on one side of 1 and it lies wholly outside 1/1.1 to
                1.1; else None
    fault       why there is nothing to say at all
    """

    blocks: int
    ratio: float | None = None
    ci: Interval | None = None
    half_width: float | None = None
    spread: float | None = None
    p: float | None = None
    p_t: float | None = None
    p_equal: float | None = None
    plain_ci: Interval | None = None
    fault: str | None = None


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How the log ratio moved from the first to the last third of a block; verdict None is steady enough.

    ci     99 %, of the mean over blocks
    shown  whether it is over 1 % and its 95 % interval excludes 0: enough to be told beside a claim
    """

    verdict: str | None = None
    mean: float | None = None
    ci: Interval | None = None
    shown: bool = False


def log_ratios(baseline: Numbers, arm: Numbers) -> npt.NDArray[np.float64]:
    """log(t_baseline / t_arm) round by round, (rounds,); not finite where a time is not positive."""
    with np.errstate(all="ignore"):
        ratios = np.log(np.asarray(baseline, dtype=float)) - np.log(np.asarray(arm, dtype=float))
    return np.asarray(ratios, dtype=float)


def block_log_ratio(ratios: Numbers) -> float:
    """The value d of one block: the mean of its rounds' log ratios; not finite where one of them is not."""
    with np.errstate(all="ignore"):
        return float(np.mean(np.asarray(ratios, dtype=float))) if len(ratios) else math.nan


def contrast(d: Numbers, *, theta: float = THETA) -> Contrast:
    """Ratio, interval and tests from one log ratio a block, (blocks,); never NaN, never infinite."""
    values = np.asarray(d, dtype=float)
    blocks = len(values)
    if blocks == 0:
        return Contrast(blocks=0)
    if not np.all(np.abs(values) <= _LARGEST_LOG):  # NaN compares false
        return Contrast(blocks=blocks, fault="a block's ratio is not a usable number: a time is zero or absurd")
    mean = float(np.mean(values))
    if blocks == 1:
        return Contrast(blocks=1, ratio=math.exp(mean))
    if np.ptp(values) <= 1e-12:
        return Contrast(blocks=blocks, fault=f"{blocks} blocks without any variance: these are no measured times")
    spread = float(np.std(values, ddof=1))
    half = half_width(values)
    p_t = _p_t(values)
    return Contrast(
        blocks=blocks,
        ratio=math.exp(mean),
        ci=_exp_interval(mean, half),
        half_width=half,
        spread=spread,
        p=max(p_t, _p_wilcoxon(values)),
        p_t=p_t,
        p_equal=p_equal(values, math.log1p(theta)),
        plain_ci=_plain_interval(values),
    )


def half_width(d: Numbers, confidence: float = CONFIDENCE) -> float:
    """Half the t interval of mean d, 95 % unless told otherwise; infinite under 2 blocks."""
    from scipy import stats as scipy_stats

    values = np.asarray(d, dtype=float)
    if len(values) < 2:
        return math.inf
    quantile = float(scipy_stats.t.ppf(0.5 + confidence / 2, len(values) - 1))
    return quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def blocks_needed(spread: float, target: float) -> int | None:
    """Blocks in all until the half-width is `target` at this spread; None past 10,000."""
    from scipy import stats as scipy_stats

    start = (1.96 * spread / target) ** 2
    if start > _MOST_BLOCKS:
        return None
    blocks = max(2, math.floor(start))
    while float(scipy_stats.t.ppf(0.5 + CONFIDENCE / 2, blocks - 1)) * spread / math.sqrt(blocks) > target:
        blocks += 1
    return blocks


def blocks_to_claim(family: int, alpha: float = ALPHA) -> int:
    """Blocks from which Wilcoxon's smallest p, 2 · 0.5^blocks, can survive Holm as the first of `family` contrasts."""
    return math.ceil(1 + math.log2(max(family, 1) / alpha))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """The p values corrected over their family, in their order; None, an untested contrast, stays None."""
    from statsmodels.stats.multitest import multipletests

    tested = [index for index, value in enumerate(p) if value is not None]
    corrected: list[float | None] = [None] * len(p)
    if tested:
        _, values, _, _ = multipletests([p[index] for index in tested], alpha=ALPHA, method="holm")
        for index, value in zip(tested, values, strict=True):
            corrected[index] = float(value)
    return corrected


def p_equal(values: npt.NDArray[np.float64], limit: float) -> float:
    """Two one-sided t tests of |mean| < limit: on log ratios what statsmodels' `ttost_paired` is on times."""
    from statsmodels.stats.weightstats import DescrStatsW

    return _probability(lambda: DescrStatsW(values).ttost_mean(-limit, limit)[0])


def drift(rounds: Sequence[Numbers]) -> Drift:
    """Late third minus early third of each block's log ratios, over blocks.

    Both lie on the block's median slope: bursts of the machine fall on single rounds, and are no drift.

    rounds  one array a block: log(t_baseline / t_arm) in order of time; blocks of fewer than 6 rounds do not count
    """
    thirds = [_late_minus_early(np.asarray(block, dtype=float)) for block in rounds if len(block) >= MIN_ROUNDS]
    moved = np.asarray(thirds, dtype=float)
    if len(moved) < 2 or not np.all(np.abs(moved) <= _LARGEST_LOG):
        return Drift()
    mean, half = float(np.mean(moved)), half_width(moved, DRIFT_CONFIDENCE)
    low, high = mean - half, mean + half
    verdict = None
    if low > STEADY or high < -STEADY:
        verdict = "no_steady_state"
    elif abs(mean) > STEADY and (low > 0 or high < 0):
        verdict = "degrading"
    shown = abs(mean) > max(STEADY, half_width(moved))
    return Drift(verdict=verdict, mean=mean, ci=(low, high), shown=shown or verdict is not None)


def cell_figure(values: Numbers) -> Figure | None:
    """Median over trials with its exact 95 % interval; None without trials or with a value that is no number."""
    from scipy import stats as scipy_stats

    array = np.asarray(values, dtype=float)
    if len(array) == 0 or not np.all(np.isfinite(array)):
        return None
    ci = None
    if len(array) >= MIN_TRIALS:
        interval: Any = scipy_stats.quantile_test(array, p=0.5).confidence_interval(CONFIDENCE)
        ci = (float(interval.low), float(interval.high))
    return Figure(median=float(np.median(array)), ci=ci)


def percentile(steps: Numbers, q: float) -> float | None:
    """The quantile q of one trial's steps; None with fewer steps than can bound it."""
    if len(steps) < MIN_STEPS[q]:
        return None
    return float(np.quantile(np.asarray(steps, dtype=float), q))


def _late_minus_early(block: npt.NDArray[np.float64]) -> float:
    """By the median slope of all pairs of rounds; not finite where a round is not.

    source   Sen 1968, doi:10.1080/01621459.1968.10480934; scipy's theilslopes adds an interval, at five times the time
    """
    if not np.all(np.isfinite(block)):
        return math.nan
    earlier, later = np.triu_indices(len(block), 1)
    slope = float(np.median((block[later] - block[earlier]) / (later - earlier)))
    between_thirds = len(block) - len(block) // 3
    return slope * between_thirds


def _exp_interval(mean: float, half: float) -> Interval | None:
    low, high = mean - half, mean + half
    return (math.exp(low), math.exp(high)) if max(abs(low), abs(high)) <= 2 * _LARGEST_LOG else None


def _plain_interval(values: npt.NDArray[np.float64]) -> Interval | None:
    mean, half = float(np.mean(values)), half_width(values, PLAIN_CONFIDENCE)
    one_sided = bool(np.all(values > 0) or np.all(values < 0))
    return _exp_interval(mean, half) if one_sided and abs(mean) - half > math.log1p(PLAIN) else None


def _p_t(values: npt.NDArray[np.float64]) -> float:
    from scipy import stats as scipy_stats

    return _probability(lambda: scipy_stats.ttest_1samp(values, 0.0).pvalue)


def _p_wilcoxon(values: npt.NDArray[np.float64]) -> float:
    from scipy import stats as scipy_stats

    return _probability(lambda: scipy_stats.wilcoxon(values).pvalue)


def _probability(compute: Callable[[], Any]) -> float:
    """A p value, 1 where it is not defined: what cannot be computed claims nothing."""
    with _quiet():
        p = float(compute())
    return p if math.isfinite(p) else 1.0


@contextmanager
def _quiet() -> Iterator[None]:
    """Ties, zeros and tiny samples are handled; scipy need not warn of them."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def k_min(family: int, alpha: float = ALPHA) -> int:
    """Blocks without which Wilcoxon cannot survive Holm over `family` contrasts, and 10 at least."""
    return max(10, blocks_to_claim(family, alpha))
