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


class Unresolved(ValueError):  # noqa: N818 - a reason, kept beside a null
    """The window holds too little to tell; the message says what."""


@dataclass(frozen=True, kw_only=True)
class Power:
    """The mean power of a window by an energy counter.

    watts        of the window, or of the part of it between the first and last change that were seen
    uncertainty  the share of it by which the moments of the counter's changes at either end may be off
    seconds      that it is of
    """

    watts: float
    uncertainty: float
    seconds: float


@dataclass(frozen=True)
class Track:
    """One field of one arm or GPU over time, nulls left out.

    t_ns    (n,) CLOCK_MONOTONIC, in order
    values  (n,) in the unit that the answers shall have
    """

    t_ns: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    def power(self, start_ns: int, end_ns: int) -> Power:
        """The mean power between two moments, of a counter in J that is taken to grow evenly between its changes.

        Readings a little before and after are used too; without them the power is that between the first and last
        change inside.

        raises    Unresolved: it was not read, went back, changed fewer than twice, or its changes are known too badly
        """
        seconds = (end_ns - start_ns) / 1e9
        times, steps = self.t_ns.astype(float), np.diff(self.values)
        inside = (times >= start_ns) & (times <= end_ns)
        if not inside.any():
            raise Unresolved("not read in this time")
        if (steps[inside[1:]] < 0).any():
            raise Unresolved("the counter went back, as when a driver is loaded anew")
        within = np.count_nonzero(steps[inside[:-1] & inside[1:]])
        if within < 2:
            moved = ("did not move", "moved once")[within]
            raise Unresolved(f"the counter {moved} in {seconds:.2f} s, too little to tell an energy")
        places = np.flatnonzero(steps)
        moments, said = (times[places] + times[places + 1]) / 2, self.values[places + 1]
        half_ns = (times[places + 1] - times[places]) / 2
        begin_ns, finish_ns = max(start_ns, moments[0]), min(end_ns, moments[-1])
        lasted_s = (finish_ns - begin_ns) / 1e9
        off_s = (_nearest(begin_ns, moments, half_ns) + _nearest(finish_ns, moments, half_ns)) / 1e9
        if off_s > MOST_UNCERTAIN * lasted_s:
            known = f"the counter's changes are known to {off_s:.2g} s in {lasted_s:.2g} s"
            raise Unresolved(f"{known}, over {100 * MOST_UNCERTAIN:.0f} %")
        joules = np.interp(finish_ns, moments, said) - np.interp(begin_ns, moments, said)
        return Power(watts=float(joules / lasted_s), uncertainty=float(off_s / lasted_s), seconds=float(lasted_s))

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
            raise Unresolved("not read in this time")
        return values


def _nearest(moment: float, moments: npt.NDArray[np.float64], of_each: npt.NDArray[np.float64]) -> float:
    return float(of_each[np.abs(moments - moment).argmin()])
