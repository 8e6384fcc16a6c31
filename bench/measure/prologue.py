"""What comes before a comparison's first block: what it is asked of, what it came to, and who is left out of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench import records
from bench.measure import lockstep
from bench.measure.lockstep import ArmFailed, Bench
from bench.records import REFERENCE

if TYPE_CHECKING:
    from pathlib import Path

    from bench.errors import WorkerFailed
    from bench.launch.group import Group
    from bench.matrix.comparison import Comparison
    from bench.measure.parity import Certificate
    from bench.measure.view import View
    from bench.planning.slices import Plan

FINAL = ("unsupported", "failed")  # said so, or raised: it would again


@dataclass
class Prologue:
    """What came before the first block: certificates by arm, evaluations, the plan.

    left_out  the arms, or the reference, that cannot do what is asked, or whose code raised an error: the same would
              happen again
    failed    the arm, or the reference, whose worker crashed, hung or babbled: that may not happen again
    evaluate_steps  of every evaluation that is made now, once it is known; 0 where those that are kept serve
    """

    certificates: dict[str, Certificate] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    plan: Plan | None = None
    left_out: dict[str, WorkerFailed] = field(default_factory=dict)
    failed: ArmFailed | None = None
    evaluate_steps: int | None = None

    @property
    def passed(self) -> bool:
        """Whether at least one contrast may be measured."""
        return any(certificate.status in records.MEASURED for certificate in self.certificates.values())

    def hopeless(self, comparison: Comparison) -> bool:
        """Whether every contrast has its certificate, and none may be measured."""
        return len(self.certificates) == len(comparison.contrasts) and not self.passed

    def over(self, comparison: Comparison) -> bool:
        """Whether nothing is left to compare: the reference, the baseline or every other arm is left out."""
        return all(self.culprit(baseline.id, arm.id) for baseline, arm in comparison.contrasts)

    def culprit(self, baseline: str, arm: str) -> str | None:
        """For whose sake this contrast is left out; None where it is not."""
        return next((name for name in (REFERENCE, baseline, arm) if name in self.left_out), None)

    def measured(self, comparison: Comparison) -> list[str]:
        """The arms to plan for: of every contrast that may be measured."""
        passed = {arm for arm, one in self.certificates.items() if one.status in records.MEASURED}
        return [arm.id for arm in comparison.arms if arm.id in passed | {comparison.baseline}]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A comparison to certify, and what that takes; `measure`: to pilot and evaluate as well.

    known       what is proved of every contrast already, by its arm: its certificate and evaluations as on disk
    evaluate_s  what the evaluations of all arms may take together; longer ones are cut, for all arms alike
    """

    bench: Bench
    comparison: Comparison
    cache: Path
    control_cpus: frozenset[int]
    view: View
    measure: bool
    known: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    evaluate_s: float = math.inf

    def say(self, text: str) -> None:
        """What goes on."""
        self.view.stage(self.comparison.id, text)


@contextmanager
def leaving_out(task: Task, group: Group, prologue: Prologue) -> Iterator[None]:
    """What one arm does, which may take it out of the comparison. Raises ArmFailed as `leave_out` does."""
    try:
        yield
    except ArmFailed as failed:
        leave_out(task, group, prologue, failed)


def leave_out(task: Task, group: Group, prologue: Prologue, failed: ArmFailed) -> None:
    """Go on without an arm. Raises ArmFailed where it may be tried again, or where nothing is left to compare."""
    if task.measure and failed.failure.kind not in FINAL:
        raise failed
    prologue.left_out[failed.arm] = failed.failure
    lockstep.remove(task.bench, group, failed.arm)
    if prologue.over(task.comparison):
        raise failed


def slowest_mode(comparison: Comparison) -> str:
    """The mode that takes longest to answer: what compiles does so first."""
    modes = {arm.cell.mode for arm in comparison.arms}
    return next(mode for mode in ("compiled", "graph", "eager") if mode in modes)
