"""The plan of a comparison: how its blocks are measured, decided once and kept in run.json (pure)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

OTHER_SYNC_EVERY = 4  # rounds: the sync that does not decide is sampled too, less often
SLOW_STEP_S = 0.25  # above it a block of so many rounds would take most of a minute
LEAST_ROUNDS, LEAST_SLOW_ROUNDS, MOST_ROUNDS = 16, 6, 40  # with 12, a slow drift of one arm is missed too often
# Of a slice, at most.
TIMER_SHARE = 1e-4
CONTROL_SHARE = 0.01

_BY_ARM = ("pilot", "warm_up", "timer_ns", "control_ns", "cold")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A comparison's slices and warm-up, from its pilot; the same in every block, and in a resumed run.

    All but `slices` by arm; what a run of an earlier version did not keep is empty (bench.store).

    warm_steps  before the first slice
    step_ns     of a step once the arm is warm
    pilot       the pilot's raw step times from the first step after `open` on, ns
    warm_up     what warmup.warm_up_steps made of them: steps, found, changes
    timer_ns    one pair of readings of the worker's clock
    control_ns  raw: what each of the pilot's questions and answers cost beside the step
    cold        import_s, build_s and first_step_s of the arm's first process, whose compile cache was empty;
                None where it was not
    block_s     what a block should take by the pilot, compiling left out; None where no pilot tells
    """

    slices: SlicePlan
    warm_steps: Mapping[str, int]
    step_ns: Mapping[str, float]
    pilot: Mapping[str, Sequence[int]] = field(default_factory=dict)
    warm_up: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    timer_ns: Mapping[str, float] = field(default_factory=dict)
    control_ns: Mapping[str, Sequence[int]] = field(default_factory=dict)
    cold: Mapping[str, Mapping[str, float] | None] = field(default_factory=dict)
    block_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As kept in run.json."""
        return {
            "steps": dict(self.slices.steps),
            "settle_steps": self.slices.settle_steps,
            "rounds": self.slices.rounds,
            "timer_share": dict(self.slices.timer_share),
            "control_share": dict(self.slices.control_share),
            "warm_steps": dict(self.warm_steps),
            "step_ns": dict(self.step_ns),
            **{name: dict(getattr(self, name)) for name in _BY_ARM},
            "block_s": self.block_s,
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Plan:
        """The inverse of `to_json`."""
        slices = SlicePlan(
            steps=plain["steps"],
            settle_steps=plain["settle_steps"],
            rounds=plain["rounds"],
            timer_share=plain["timer_share"],
            control_share=plain["control_share"],
        )
        return cls(
            slices=slices,
            warm_steps=plain["warm_steps"],
            step_ns=plain["step_ns"],
            **{name: plain[name] for name in _BY_ARM},
            block_s=plain["block_s"],
        )


@dataclass(frozen=True, kw_only=True)
class SlicePlan:
    """How the arms of a block take turns.

    steps          of one slice, by arm: slices last alike, so a quicker arm does more
    settle_steps   before them, recorded and left out
    rounds         turns of every arm in a block
    timer_share    by arm, what reading the clock adds to a time that decides: the cost of one pair of readings ÷ what
                   it encloses, a whole slice where its total is timed, one step where every step is
    control_share  by arm, what asking and answering cost beside a slice ÷ the slice: machine time spent between
                   slices, no part of any time
    """

    steps: Mapping[str, int]
    settle_steps: int
    rounds: int
    timer_share: Mapping[str, float] = field(default_factory=dict)
    control_share: Mapping[str, float] = field(default_factory=dict)


def slice_plan(
    pilot: Mapping[str, Sequence[float]],
    *,
    timer_ns: Mapping[str, float] = MappingProxyType({}),
    control_ns: Mapping[str, float] = MappingProxyType({}),
    sync: str = "slice",
    slice_s: float = 0.010,
    target_s: float = 1.0,
    settle_steps: int = 2,
    syncs: int = 2,
) -> SlicePlan:
    """Slices long enough to time and short enough to alternate often.

    pilot       step times of each arm once it is warm, ns
    timer_ns    of each arm, one pair of readings of its clock: a slice lasts 10,000 of them or more
    control_ns  of each arm, what a question and its answer cost beside the steps: a slice lasts 100 of them or more, as
                long as the least rounds of it stay within `target_s`: on a busy machine an answer takes its time
    sync        of the times that decide: `slice` reads the clock once a slice, `step` once a step
    slice_s     the least duration of a slice; longer only where one step, the timer or the control takes longer
    target_s    measured seconds of each arm in a block, over all `syncs` kinds of slices of a round
    """
    typical_s = {arm: max(statistics.median(times), 1.0) * 1e-9 for arm, times in pilot.items()}
    timer_s = max(timer_ns.values(), default=0.0) * 1e-9
    control_s = max(control_ns.values(), default=0.0) * 1e-9
    longest_s = target_s / (LEAST_ROUNDS * syncs)
    duration_s = max(slice_s, timer_s / TIMER_SHARE, min(control_s / CONTROL_SHARE, longest_s), *typical_s.values())
    steps = {arm: max(1, math.ceil(duration_s / step_s - 1e-9)) for arm, step_s in typical_s.items()}
    rounds = round(target_s / (duration_s * syncs))
    least = LEAST_ROUNDS if duration_s < SLOW_STEP_S else LEAST_SLOW_ROUNDS
    slice_ns = {arm: steps[arm] * step_s * 1e9 for arm, step_s in typical_s.items()}
    timed_ns = slice_ns if sync == "slice" else {arm: step_s * 1e9 for arm, step_s in typical_s.items()}
    return SlicePlan(
        steps=steps,
        settle_steps=settle_steps,
        rounds=min(MOST_ROUNDS, max(least, rounds)),
        timer_share={arm: cost_ns / timed_ns[arm] for arm, cost_ns in timer_ns.items()},
        control_share={arm: cost_ns / slice_ns[arm] for arm, cost_ns in control_ns.items()},
    )
