"""The plan of a comparison: how its blocks are measured, decided once and kept in run.json (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.plan.schedule import SlicePlan

_OPTIONAL = ("pilot", "warm_up", "timer_ns", "control_ns", "cold")  # older plans lack them


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A comparison's slices and warm-up, from its pilot; the same in every block, and in a resumed run.

    All but `slices` by arm; what a run of an earlier version did not keep is empty.

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
            **{name: dict(getattr(self, name)) for name in _OPTIONAL},
            "block_s": self.block_s,
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Plan:
        """The inverse of `to_json`; also of a plan that an earlier version kept."""
        slices = SlicePlan(
            steps=plain["steps"],
            settle_steps=plain["settle_steps"],
            rounds=plain["rounds"],
            timer_share=plain.get("timer_share", {}),
            control_share=plain.get("control_share", {}),
        )
        later = {name: plain.get(name, {}) for name in _OPTIONAL}
        return cls(
            slices=slices,
            warm_steps=plain["warm_steps"],
            step_ns=plain["step_ns"],
            **later,
            block_s=plain.get("block_s"),
        )
