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
_BESIDE = 2  # steps of a counter that the power at an end is taken over
_AROUND_NS = 2_000_000_000  # before and after a window, what is looked at


class Unresolved(ValueError):  # noqa: N818 - a reason, kept beside a null
    """The window holds too little to tell; the message says what."""


@dataclass(frozen=True, kw_only=True)
class Power:
    """The mean power of a window by an energy counter.

    uncertainty  a share of it: by which the moments of the counter's changes at either end may be off, and by which the
                 power beside an end varies from one step of the counter to the next
    """

    watts: float
    uncertainty: float


@dataclass(frozen=True)
class _Changes:
    """A counter's changes in order: when, in s, give or take half the distance of two readings; and what it said."""

    moments: npt.NDArray[np.float64]
    half: npt.NDArray[np.float64]
    said: npt.NDArray[np.float64]

    @classmethod
    def of(cls, times: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> _Changes:
        places = np.flatnonzero(np.diff(values))
        moments, half = (times[places] + times[places + 1]) / 2, (times[places + 1] - times[places]) / 2
        return cls(moments, half, values[places + 1])

    def turned(self) -> _Changes:
        """The same with time running backwards: the end of a window becomes its beginning."""
        return _Changes(-self.moments[::-1], self.half[::-1], -self.said[::-1])

    def before(self, first: int, edge_s: float) -> tuple[float, float]:
        """What was used from the edge of a window to the first change inside it, and by how much that may be off, J."""
        inside_w, _ = self._watts(first, first + _BESIDE)
        outside_s = edge_s - self.moments[first - 1] if first else 0.0
        if first < 2:  # no step outside
            mean_w, _ = self._watts(first, len(self.moments) - 1)
            gap_s = self.moments[first] - edge_s
            return inside_w * gap_s, inside_w * self.half[first] + abs(inside_w - mean_w) * gap_s
        straddling_j = self.said[first] - self.said[first - 1]
        outside_w, nearest_w = self._watts(max(0, first - 1 - _BESIDE), first - 1)
        watts = outside_w if outside_s > 0 else inside_w
        straddling_w = straddling_j / (self.moments[first] - self.moments[first - 1])
        varies_w = max(abs(nearest_w - watts), abs(straddling_w - watts) / 2)
        return max(0.0, straddling_j - watts * outside_s), watts * self.half[first - 1] + varies_w * abs(outside_s)

    def _watts(self, early: int, late: int) -> tuple[float, float]:
        """The mean power between two changes, and that of the last step of them."""
        late = min(late, len(self.moments) - 1)
        joules, seconds = np.diff(self.said[early : late + 1]), np.diff(self.moments[early : late + 1])
        return float(joules.sum() / seconds.sum()), float(joules[-1] / seconds[-1])


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

        The window lies within the counter's change from the last before it to the first after it. What of that was used
        outside is taken off, by the power of the steps just outside, which may be quite another: an idle GPU's. Where
        nothing was read outside, an end is given the power of the steps just inside.

        raises    Unresolved: it was not read, went back, changed fewer than twice inside, or is known too badly
        """
        seconds, start_s, end_s = (end_ns - start_ns) / 1e9, start_ns / 1e9, end_ns / 1e9
        near = (self.t_ns >= start_ns - _AROUND_NS) & (self.t_ns <= end_ns + _AROUND_NS)
        times, values = self.t_ns[near] / 1e9, self.values[near]
        if not ((times >= start_s) & (times <= end_s)).any():
            raise Unresolved(UNREAD)
        began_anew = times[1:][np.diff(values) < 0]
        if ((began_anew >= start_s) & (began_anew <= end_s)).any():
            raise Unresolved("the counter went back, as when a driver is loaded anew")
        same = (times >= began_anew[began_anew < start_s].max(initial=-np.inf)) & (
            times < began_anew[began_anew > end_s].min(initial=np.inf)
        )
        changes = _Changes.of(times[same], values[same])
        inside = np.flatnonzero((changes.moments - changes.half >= start_s) & (changes.moments + changes.half <= end_s))
        if len(inside) < 2:
            moved = ("did not move", "moved once")[len(inside)]
            raise Unresolved(f"the counter {moved} in {seconds:.2f} s, too little to tell an energy")
        lasted_s = changes.moments[inside[-1]] - changes.moments[inside[0]]
        if lasted_s < LEAST_SEEN * seconds:
            raise Unresolved(f"the counter was seen to move over {lasted_s:.2g} s of {seconds:.2g} s alone")
        turned = changes.turned()
        first_j, first_off_j = changes.before(int(inside[0]), start_s)
        last_j, last_off_j = turned.before(len(turned.moments) - 1 - int(inside[-1]), -end_s)
        joules = changes.said[inside[-1]] - changes.said[inside[0]] + first_j + last_j
        uncertainty = (first_off_j + last_off_j) / joules
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
