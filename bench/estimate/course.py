"""How a contrast's log ratio goes through a block, and whether a claim holds in every third of it (pure).

A drift of one arm can make a difference that is none: what is claimed must hold in the first, the middle and the last
third of the blocks; and where the ratio moves, drawn on along its line, also at the first warm-up step and two thirds
of a block past the end. Simulated, one arm that slows by 3 % through every block is then called faster or slower in 3
to 6 % of contrasts (by p alone in 18 to 100 %), and a true 10 % beside a drift of 2.6 % is found in 98 to 100 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.stats import Numbers, p_equal

PARTS = ("in their first third", "in their middle third", "in their last third")
BEFORE, BEYOND = "at the first step of the warm-up", "two thirds of a block further on"
BEYOND_BLOCKS = 2 / 3
BOUND = 0.95  # one-sided, of each third
DRAWN_ON_BOUND = 0.975  # where a line is followed: at 95 %, 4 to 7 % of drifts were called a difference (simulated)
MOVING = 0.80  # two-sided, of last − first: from there on the line is followed past both ends
_ALPHA = 1 - BOUND
_BETWEEN = 2 / 3  # of a block, from the middle of the first third to the middle of the last


@dataclass(frozen=True, kw_only=True)
class Course:
    """Mean log ratios of the thirds of every block, (blocks, 3), in order of time.

    warm_up  the longer arm's warm-up, in lengths of what was measured of a block
    """

    thirds: npt.NDArray[np.float64]
    warm_up: float = 0.0

    @classmethod
    def of(cls, rounds: Sequence[Numbers], *, warm_up: float = 0.0) -> Course:
        """From log ratios round by round, one array a block; a block of fewer than three rounds has no thirds."""
        split = [np.array_split(np.asarray(block, dtype=float), len(PARTS)) for block in rounds if len(block) >= 3]
        means = [[float(np.mean(third)) for third in thirds] for thirds in split]
        return cls(thirds=np.asarray(means, dtype=float).reshape(-1, len(PARTS)), warm_up=warm_up)

    def failing_difference(self, sign: float) -> list[str]:
        """Where a difference does not hold; none with fewer than two blocks of thirds.

        sign  above 0: the arm is claimed to be faster
        """
        if len(self.thirds) < 2:
            return []
        asked = [(place, values, BOUND) for place, values in zip(PARTS, self.thirds.T, strict=True)]
        asked += [(place, values, DRAWN_ON_BOUND) for place, values in self._drawn_on()]
        return [place for place, values, bound in asked if _lower_bound(math.copysign(1, sign) * values, bound) <= 0]

    def failing_equality(self, limit: float) -> list[str]:
        """Where the ratio is not shown to lie within ± `limit` (of its log)."""
        if len(self.thirds) < 2:
            return []
        asked = zip(PARTS, self.thirds.T, strict=True)
        return [place for place, values in asked if p_equal(values, limit) >= _ALPHA]

    def _drawn_on(self) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
        """The log ratio of every block past its ends, along its own line; nothing where it does not move."""
        moved = self.thirds[:, -1] - self.thirds[:, 0]
        if _half_width(moved, 0.5 + MOVING / 2) >= abs(float(np.mean(moved))):
            return
        middle, slope = self.thirds.mean(axis=1), moved / _BETWEEN
        yield BEFORE, middle - slope * (0.5 + self.warm_up)
        yield BEYOND, middle + slope * (0.5 + BEYOND_BLOCKS)


def _lower_bound(values: npt.NDArray[np.float64], bound: float) -> float:
    return float(np.mean(values)) - _half_width(values, bound)


def _half_width(values: npt.NDArray[np.float64], quantile: float) -> float:
    from scipy import stats as scipy_stats

    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(scipy_stats.t.ppf(quantile, len(values) - 1)) * error
