"""How many steps a fresh process takes to warm up: change points in the series of its first steps (pure).

source   Killick et al. 2012, doi:10.1080/01621459.2012.737745 (PELT); Barrett et al. 2017, doi:10.1145/3133876 (change
         points instead of a fixed number of skipped steps)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

GROUP_STEPS = 5  # their median is one point of the series: a lone outlier is none
MIN_GROUPS = 3  # of a segment
SAME_LEVEL = math.log(1.01)
LEAST_STEPS = 5
SETTLED_SHARE = 0.2  # of the series, at least, is the level that it settles at
SIGMA_FLOOR = 1e-4  # of log time: a quieter series differs by less than SAME_LEVEL anyway
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """Where a series settles.

    steps    to leave out; the whole series where `found` is false
    found    whether the series settles: it is long enough to hold a change, and its last level is a fifth of it or more
    changes  steps before which the level changes, the changes of less than 1 % with them
    """

    steps: int
    found: bool
    changes: tuple[int, ...]


def warm_up_steps(step_ns: Sequence[float]) -> WarmUp:
    """All steps before the last level, by change points in log medians of five steps.

    The noise is taken from differences of neighbours, so that the change itself does not count as noise. Going
    backwards, a segment whose median is within 1 % of the last one's belongs to it.

    step_ns  of a process that has just been opened, in order
    """
    groups = len(step_ns) // GROUP_STEPS
    if groups < 2 * MIN_GROUPS:
        return WarmUp(steps=max(LEAST_STEPS, len(step_ns)), found=False, changes=())
    times = np.maximum(np.asarray(step_ns[: groups * GROUP_STEPS], dtype=float), 1.0)
    series = np.median(np.log(times).reshape(groups, GROUP_STEPS), axis=1)
    ends = _segments((series - np.median(series)) / _sigma(series))
    starts = [0, *ends[:-1]]
    levels = [float(np.median(series[start:end])) for start, end in zip(starts, ends, strict=True)]
    settled = starts[-1]
    for start, level in zip(reversed(starts), reversed(levels), strict=True):
        if abs(level - levels[-1]) > SAME_LEVEL:
            break
        settled = start
    found = groups - settled >= SETTLED_SHARE * groups
    return WarmUp(
        steps=max(LEAST_STEPS, settled * GROUP_STEPS) if found else len(step_ns),
        found=found,
        changes=tuple(end * GROUP_STEPS for end in ends[:-1]),
    )


def _sigma(series: npt.NDArray[np.float64]) -> float:
    """The noise of one point, from the MAD of differences of neighbours."""
    differences = np.diff(series)
    deviation = float(np.median(np.abs(differences - np.median(differences))))
    return max(SIGMA_FLOOR, _MAD_TO_SIGMA * deviation / math.sqrt(2))


def _segments(scaled: npt.NDArray[np.float64]) -> list[int]:
    """The end of every segment, in groups; `scaled` has noise of SD 1.

    KernelCPD with the linear kernel is Pelt("l2", min_size=3, jump=1), the same segments from compiled code: 400
    points take a millisecond instead of seconds.
    """
    import ruptures

    detector = ruptures.KernelCPD(kernel="linear", min_size=MIN_GROUPS)
    return [int(end) for end in detector.fit(scaled.reshape(-1, 1)).predict(pen=3 * math.log(len(scaled)))]
