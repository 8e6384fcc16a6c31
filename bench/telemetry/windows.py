"""What slow readings tell of a window of time, and how well (pure).

NVML's figures move every 0.1 to 1 s and are read more often than that: until the next change the same value stands
there again. An energy is therefore taken from the changes of its counter, whose moments are known to half the distance
of two readings; a level is taken where the second that it is an average over lies within the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

AVERAGED_S = 1.0  # utilization and power are averages over up to so much time before a reading
LEAST_LEVELS = 3
MOST_UNCERTAIN = 0.1  # of an energy: one that is known less well is not given
LEAST_SEEN = 0.5  # of a window, between the first and last change of a counter
UNREAD = "not read in this time"
_BESIDE = 3  # steps of a counter that the power at an end is taken over


class Unresolved(ValueError):  # noqa: N818 - a reason, kept beside a null
    """The window holds too little to tell; the message says what."""


@dataclass(frozen=True, kw_only=True)
class Power:
    """The mean power of a window by an energy counter.

    uncertainty  a share of it: by which the moments of the first and last change may be off, and by which it would be
                 another if the parts beyond these had used what the rest did
    """

    watts: float
    uncertainty: float


@dataclass(frozen=True)
class Track:
    """One field of one arm or GPU over time, nulls left out.

    t_ns    (n,) CLOCK_MONOTONIC, in order
    values  (n,) in the unit that the answers shall have
    """

    t_ns: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    def power(self, start_ns: int, end_ns: int) -> Power:
        """The mean power between two moments, of a counter in J.

        What was used between the first and the last change inside is known; for the parts before and after, less than
        a step each, the power right beside them is taken. What lies outside of the window is never looked at: a GPU
        that was idle until then would pull the first step down.

        raises    Unresolved: it was not read, went back, changed fewer than twice, or is known too badly
        """
        seconds = (end_ns - start_ns) / 1e9
        inside = (self.t_ns >= start_ns) & (self.t_ns <= end_ns)
        times, values = self.t_ns[inside].astype(float) / 1e9, self.values[inside]
        if not len(times):
            raise Unresolved(UNREAD)
        steps = np.diff(values)
        if (steps < 0).any():
            raise Unresolved("the counter went back, as when a driver is loaded anew")
        places = np.flatnonzero(steps)
        if len(places) < 2:
            moved = ("did not move", "moved once")[len(places)]
            raise Unresolved(f"the counter {moved} in {seconds:.2f} s, too little to tell an energy")
        moments, said = (times[places] + times[places + 1]) / 2, values[places + 1]
        lasted_s = moments[-1] - moments[0]
        if lasted_s < LEAST_SEEN * seconds:
            raise Unresolved(f"the counter was seen to move over {lasted_s:.2g} s of {seconds:.2g} s alone")
        beside = min(_BESIDE, len(places) - 1)
        before_w, after_w = (
            (said[late] - said[early]) / (moments[late] - moments[early])
            for early, late in ((0, beside), (-1 - beside, -1))
        )
        before_s, after_s = moments[0] - start_ns / 1e9, end_ns / 1e9 - moments[-1]
        inner_j = said[-1] - said[0]
        joules = inner_j + before_w * before_s + after_w * after_s
        off_s = (times[places[0] + 1] - times[places[0]] + times[places[-1] + 1] - times[places[-1]]) / 2
        if_even_j = inner_j * seconds / lasted_s  # had the power of the rest been that of the ends too
        uncertainty = off_s / lasted_s + abs(joules - if_even_j) / joules
        if uncertainty > MOST_UNCERTAIN:
            raise Unresolved(
                f"its energy is known to {100 * uncertainty:.0f} % only, over {100 * MOST_UNCERTAIN:.0f} %"
            )
        return Power(watts=float(joules / seconds), uncertainty=float(uncertainty))

    def level(self, start_ns: int, end_ns: int) -> float:
        """The mean between two moments, without readings that are averages over what was before the first.

        raises  Unresolved: too few readings are left
        """
        values = self._between(start_ns + AVERAGED_S * 1e9, end_ns)
        if len(values) < LEAST_LEVELS:
            lasted = f"{(end_ns - start_ns) / 1e9:.2f} s"
            raise Unresolved(
                f"{len(values)} readings after the first {AVERAGED_S:g} s of {lasted}, of {LEAST_LEVELS} that it takes"
            )
        return float(values.mean())

    def highest(self, start_ns: int, end_ns: int) -> float:
        """The highest that was read between two moments. Raises Unresolved: nothing was."""
        return float(self._read_between(start_ns, end_ns).max())

    def first(self, start_ns: int, end_ns: int) -> float:
        """What was read first between two moments. Raises Unresolved: nothing was."""
        return float(self._read_between(start_ns, end_ns)[0])

    def refresh_s(self) -> float | None:
        """How often the field moves: the median time between two changes, no less than between two readings.

        None where it changed fewer than three times, and nothing can be said.
        """
        changed = self.t_ns[1:][np.diff(self.values) != 0]
        return float(np.median(np.diff(changed)) / 1e9) if len(changed) >= 3 else None

    def _between(self, start_ns: float, end_ns: float) -> npt.NDArray[np.float64]:
        return self.values[(self.t_ns >= start_ns) & (self.t_ns <= end_ns)]

    def _read_between(self, start_ns: int, end_ns: int) -> npt.NDArray[np.float64]:
        values = self._between(start_ns, end_ns)
        if not len(values):
            raise Unresolved(UNREAD)
        return values
