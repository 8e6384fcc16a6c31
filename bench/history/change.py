"""What two sessions' blocks say about one change: pure functions of numbers.

A change is a time after ÷ the same time before, above 1 where it takes longer. Each block gives one value, the log of
a time or of a ratio. Blocks of one run are compared with blocks of another: two independent samples (Welch 1947), not
pairs, because nothing ties block k of one session to block k of another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.stats import ALPHA, CONFIDENCE, THETA, Interval, Numbers

# How far a whole session lies from another for no reason of the program's, in SDs between the blocks of a session.
SESSION = 1.0  # measured: docs/decisions/0006-what-two-runs-can-show.md
_LARGEST_LOG = 300.0


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change and how sure it is; None where the blocks cannot say it.

    blocks   of before and of after
    ratio    after ÷ before                 p        the larger of Welch's t and Mann-Whitney's U
    ci       its 95 % interval              p_equal  two one-sided tests of |log ratio| < log(1 + θ)
    fault    why there is nothing to say
    """

    blocks: tuple[int, int]
    ratio: float | None = None
    ci: Interval | None = None
    p: float | None = None
    p_equal: float | None = None
    fault: str | None = None

    def inverse(self) -> Change:
        """The same seen from the other side of a pair."""
        ratio = None if self.ratio is None else 1 / self.ratio
        ci = None if self.ci is None else (1 / self.ci[1], 1 / self.ci[0])
        return Change(blocks=self.blocks, ratio=ratio, ci=ci, p=self.p, p_equal=self.p_equal, fault=self.fault)

    def to_json(self, p_holm: float | None = None) -> dict[str, Any]:
        """Plain JSON, with the corrected p beside the raw one."""
        return {
            "ratio": self.ratio,
            "ci": list(self.ci) if self.ci else None,
            "p": self.p,
            "p_holm": p_holm,
            "blocks": list(self.blocks),
            "reason": self.fault,
        }


def change(before: Numbers, after: Numbers, *, session: float = SESSION, theta: float = THETA) -> Change:
    """The change from one sample of blocks to another, logs of times or of ratios, (blocks,) each.

    session  SD of a session's own shift, in SDs between its blocks: it adds session² · s² to the variance of either
             mean, which more blocks do not lessen
    """
    samples = [np.asarray(values, dtype=float) for values in (before, after)]
    counts = (len(samples[0]), len(samples[1]))
    if min(counts) == 0:
        return Change(blocks=counts, fault="no valid block in one of the runs")
    if not all(np.all(np.abs(values) <= _LARGEST_LOG) for values in samples):  # NaN compares false
        return Change(blocks=counts, fault="a block's time is zero or absurd")
    shift = float(np.mean(samples[1]) - np.mean(samples[0]))
    if min(counts) < 2:
        return Change(blocks=counts, ratio=math.exp(shift), fault="an interval takes two blocks in each run")
    variances = [float(np.var(values, ddof=1)) * (1 / len(values) + session**2) for values in samples]
    if sum(variances) <= 1e-24:
        return Change(blocks=counts, fault="blocks without any variance: these are no measured times")
    return _estimated(samples, counts, shift, variances, math.log1p(theta))


def shown(p_holm: float | None) -> bool:
    """Whether a corrected p is enough to speak of a difference."""
    return p_holm is not None and p_holm < ALPHA


def blocks_to_show(tests: int) -> int:
    """Blocks in each run without which Mann-Whitney cannot survive Holm over so many tests."""
    blocks = 2
    while tests * 2 / math.comb(2 * blocks, blocks) >= ALPHA:
        blocks += 1
    return blocks


def _estimated(
    samples: list[npt.NDArray[np.float64]], counts: tuple[int, int], shift: float, variances: list[float], limit: float
) -> Change:
    from scipy import stats as scipy_stats

    t = scipy_stats.t  # not frozen, which costs as much as all the rest
    error = math.sqrt(sum(variances))
    parts = [variance**2 / (count - 1) for variance, count in zip(variances, counts, strict=True)]
    freedom = sum(variances) ** 2 / sum(parts)  # Welch & Satterthwaite
    half = float(t.ppf(0.5 + CONFIDENCE / 2, freedom)) * error
    p_t = 2 * float(t.sf(abs(shift) / error, freedom))
    p_u = float(scipy_stats.mannwhitneyu(samples[0], samples[1]).pvalue)
    apart = [float(t.sf((limit + shift) / error, freedom)), float(t.sf((limit - shift) / error, freedom))]
    low, high = (min(max(end, -_LARGEST_LOG), _LARGEST_LOG) for end in (shift - half, shift + half))
    return Change(
        blocks=counts,
        ratio=math.exp(shift),
        ci=(math.exp(low), math.exp(high)),
        p=max(p_t, p_u if math.isfinite(p_u) else 1.0),
        p_equal=max(apart),
    )
