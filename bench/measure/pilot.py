"""The pilot: each arm alone, to learn how long it takes to warm up, what a step takes, and what asking costs.

Its first steps are taken on a worker that has just been opened: one that was asked anything before is warm already.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bench.measure import lockstep
from bench.measure.lockstep import ask
from bench.planning import slices as plan
from bench.planning import warmup
from bench.planning.slices import Plan

if TYPE_CHECKING:
    from bench.launch.group import Group
    from bench.planning.slices import SlicePlan

FIRST_STEPS = 5
LEAST_STEPS, MOST_STEPS = 30, 2000  # fewer cannot hold a change of level
ENOUGH_S = 2.0
STEPS_AT_ONCE = 250  # then the clock is looked at: on a busy machine a mean step takes many times a median one
SLOW_STEP_S = 0.1
SLOW_STEPS, SLOW_ENOUGH_S = 15, 8.0
QUESTIONS, SLOW_QUESTIONS = 20, 5
COLD = ("import_s", "build_s", "first_step_s")
STARTUP = ("import_s", "data_s", "build_s", "first_step_s")
WARM_UPS = 2  # lengths of the longest warm-up that a block measures
MOST_ROUNDS = 400  # of a block that is longer for its warm-up's sake
_SLICES = 1 + 1 / plan.OTHER_SYNC_EVERY  # of an arm in a round, on average


@dataclass
class Pilot:
    """What the first worker of each arm told, raw and by arm.

    opened      its answer to `open`
    step_ns     its first steps
    control_ns  what questions and answers cost beside a step
    """

    opened: dict[str, dict[str, Any]] = field(default_factory=dict)
    step_ns: dict[str, list[int]] = field(default_factory=dict)
    control_ns: dict[str, list[int]] = field(default_factory=dict)

    def of(self, arms: Sequence[str]) -> Pilot:
        """The same of these arms alone."""
        return Pilot(
            opened={arm: self.opened[arm] for arm in arms},
            step_ns={arm: self.step_ns[arm] for arm in arms},
            control_ns={arm: self.control_ns[arm] for arm in arms},
        )

    def take_first_steps(self, group: Group, arm: str) -> None:
        """Steps of a worker that was opened and not asked anything else, until none is left to take."""
        taken = self.step_ns[arm] = []
        while left := steps_left(taken):
            steps = min(left, STEPS_AT_ONCE)
            taken += ask(group, arm, "warm", limit_s=lockstep.SLICE_LIMIT_S * 5, steps=steps)["step_ns"]

    def ask_for_control(self, group: Group, arm: str, sync: str) -> None:
        """Slices of one step: what lies between question and answer, and is not the step."""
        slow = statistics.median(self.step_ns[arm][-FIRST_STEPS:]) > SLOW_STEP_S * 1e9
        costs = self.control_ns[arm] = []
        for _ in range(SLOW_QUESTIONS if slow else QUESTIONS):
            group.settle()
            time.sleep(lockstep.QUIET_S)  # as before every slice
            before_ns = time.monotonic_ns()
            answer = ask(group, arm, "measure", limit_s=lockstep.SLICE_LIMIT_S * 5, steps=1, settle=0, sync=sync)
            costs.append(time.monotonic_ns() - before_ns - (answer["end_ns"] - answer["start_ns"]))

    def plan(self, sync: str, *, room_s: float = 0.0) -> Plan:
        """Warm-ups by change points; slices by the steps after them, the timer and the control.

        A block measures each arm for twice as long as the longest warm-up, where a block may take `room_s` in all.
        """
        warm_up = {arm: warmup.warm_up_steps(taken) for arm, taken in self.step_ns.items()}
        typical = {arm: _typical(taken, warm_up[arm].steps) for arm, taken in self.step_ns.items()}
        step_ns = {arm: statistics.median(times) for arm, times in typical.items()}
        timer_ns = {arm: opened["timer_ns"] for arm, opened in self.opened.items()}
        control_ns = {arm: statistics.median(costs) for arm, costs in self.control_ns.items()}
        warm_s = {arm: warm_up[arm].steps * step_ns[arm] * 1e-9 for arm in step_ns}
        slices = plan.slice_plan(typical, timer_ns=timer_ns, control_ns=control_ns, sync=sync, syncs=1)
        idle_s = sum(_start_s(opened) for opened in self.opened.values()) + sum(warm_s.values())
        round_s = sum(_round_s(slices, arm, step_ns[arm], control_ns[arm]) for arm in step_ns)
        measured_s = min(slices.steps[arm] * step_ns[arm] * 1e-9 for arm in step_ns)
        wanted = min(MOST_ROUNDS, math.ceil(WARM_UPS * max(warm_s.values()) / measured_s))
        slices = replace(slices, rounds=max(slices.rounds, min(wanted, int((room_s - idle_s) / round_s))))
        return Plan(
            slices=slices,
            warm_steps={arm: found.steps for arm, found in warm_up.items()},
            step_ns=step_ns,
            pilot=self.step_ns,
            warm_up={arm: asdict(found) for arm, found in warm_up.items()},
            timer_ns=timer_ns,
            control_ns=self.control_ns,
            cold={arm: _cold(opened) for arm, opened in self.opened.items()},
            block_s=round(idle_s + slices.rounds * round_s, 3),
        )


def _start_s(opened: Mapping[str, Any]) -> float:
    """What a worker takes until its first step; of one that compiled, which later ones need not, without that."""
    compiled = ("build_s", "first_step_s") if opened["cache_empty"] else ()
    return float(sum(opened[name] for name in ("start_s", *STARTUP) if name not in compiled))


def _round_s(slices: SlicePlan, arm: str, step_ns: float, control_ns: float) -> float:
    """What an arm's slices take in a round, with their settling, the asking and the pause before each."""
    slice_ns = (slices.steps[arm] + slices.settle_steps) * step_ns + control_ns
    return _SLICES * (slice_ns * 1e-9 + lockstep.QUIET_S)


def steps_left(taken: Sequence[float]) -> int:
    """How many more steps a pilot takes: two seconds in all, but 30 to 2,000 steps.

    Of steps over 0.1 s, 30 where eight seconds hold them, else 15 or as many as eight seconds hold, 5 at least.

    taken  its steps so far, ns: the last ones tell how long the next will take
    """
    if not taken:
        return FIRST_STEPS
    step_s = max(statistics.median(taken[-FIRST_STEPS:]), 1.0) * 1e-9
    slow = step_s > SLOW_STEP_S
    left_s = (SLOW_ENOUGH_S if slow else ENOUGH_S) - sum(taken) * 1e-9
    fitting = len(taken) + int(max(0.0, left_s) / step_s + 1e-6)
    if not slow:
        wanted = min(MOST_STEPS, max(LEAST_STEPS, fitting))
    elif fitting >= LEAST_STEPS:
        wanted = LEAST_STEPS
    else:
        wanted = min(SLOW_STEPS, fitting)
    return max(0, wanted - len(taken))


def _typical(taken: Sequence[int], warm_steps: int) -> Sequence[int]:
    """Steps after the warm-up; the later half where its end was not found."""
    return taken[warm_steps:] or taken[len(taken) // 2 :]


def _cold(opened: Mapping[str, Any]) -> dict[str, float] | None:
    """The times of a process that found nothing compiled; None where something was."""
    return None if opened["cache_empty"] is False else {name: opened[name] for name in COLD}
