"""Before a comparison's first block: the pilot, the certificate of every contrast, and the evaluations."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bench import lockstep, parity
from bench.errors import WorkerFailed
from bench.launch.group import Group
from bench.launch.local import start_reference
from bench.lockstep import ArmFailed, Bench, Plan, ask
from bench.parity import Certificate, Side, Trace
from bench.pilot import Pilot
from workloads.contract import STUB

if TYPE_CHECKING:
    from pathlib import Path

    from bench.comparison import Comparison
    from bench.console import View

REFERENCE = "reference"
TRACE_LIMIT_S = {"eager": 900.0, "graph": 900.0, "compiled": 1800.0}
STUB_REASON = "stubs do known work that may differ on purpose: there is nothing to prove"


@dataclass
class Prologue:
    """What came before the first block: certificates by arm, evaluations, the plan.

    refused  the arm whose implementation raised an error, for its log: no certificate without a trace
    failed   the arm whose worker crashed, hung or babbled, or that raised once it was certified
    """

    certificates: dict[str, Certificate] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    plan: Plan | None = None
    refused: ArmFailed | None = None
    failed: ArmFailed | None = None

    @property
    def passed(self) -> bool:
        """Whether at least one contrast may be measured."""
        return any(certificate.status in parity.MEASURED for certificate in self.certificates.values())

    def hopeless(self, comparison: Comparison) -> bool:
        """Whether every contrast has its certificate, and none may be measured."""
        return len(self.certificates) == len(comparison.contrasts) and not self.passed


@dataclass
class Traced:
    """The traces so far: under schedule serial one arm's after another's."""

    reference: Trace | None = None
    sides: dict[str, Side] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A comparison to certify, and what that takes; `measure`: to pilot and evaluate as well."""

    bench: Bench
    comparison: Comparison
    cache: Path
    control_cpus: frozenset[int]
    view: View
    measure: bool

    def say(self, text: str) -> None:
        """What goes on."""
        self.view.stage(self.comparison.id, text)


def begin(bench: Bench, comparison: Comparison, *, cache: Path, control_cpus: frozenset[int], view: View) -> Prologue:
    """Time a pilot, certify, train and evaluate: all that comes before the first block.

    An arm whose trace raises has no certificate: its contrasts are failed, with its error as the reason. An arm that
    crashes, hangs or babbles, or raises later, is returned as `failed`, and may be tried again.
    """
    given = Task(bench=bench, comparison=comparison, cache=cache, control_cpus=control_cpus, view=view, measure=True)
    return _prologue(given)


def certify(bench: Bench, comparison: Comparison, *, cache: Path, control_cpus: frozenset[int], view: View) -> Prologue:
    """The certificates alone."""
    given = Task(bench=bench, comparison=comparison, cache=cache, control_cpus=control_cpus, view=view, measure=False)
    return _prologue(given)


def _prologue(task: Task) -> Prologue:
    prologue, traced, pilot = Prologue(), Traced(), Pilot()
    bench, names = task.bench, [arm.id for arm in task.comparison.arms]
    try:
        for company in lockstep.companies(names, bench.schedule):
            with Group() as group:
                _company(task, group, company, traced, pilot, prologue)
        if task.measure and prologue.passed:
            prologue.plan = pilot.plan(_sync(task))
    except ArmFailed as failed:
        if failed.failure.kind == "failed" and not prologue.certificates:
            _refuse(task.comparison, failed, prologue)
        else:
            prologue.failed = ArmFailed(failed.arm, lockstep.advised(failed.failure, bench.schedule))
    return prologue


def _company(
    task: Task, group: Group, company: Sequence[str], traced: Traced, pilot: Pilot, prologue: Prologue
) -> None:
    """All that arms do in their first processes, in this order: only new ones show how they warm up."""
    task.say("starting one worker an arm")
    arms = [arm for arm in task.comparison.arms if arm.id in company]
    if task.measure:
        for arm in arms:
            lockstep.start(task.bench, group, arm, 0, pilot.opened)
    else:
        lockstep.start_together(task.bench, group, arms)
    if task.measure:
        task.say("timing the first steps")
        for name in company:
            pilot.take_first_steps(group, name)
    if not is_stub(task.comparison):
        _trace(task, group, company, traced)
    _certify(task.comparison, traced, prologue)
    if task.measure and not prologue.hopeless(task.comparison):
        _evaluate(task, group, company, prologue)
        for name in company:
            pilot.ask_for_control(group, name, _sync(task))


def _sync(task: Task) -> str:
    return lockstep.deciding_sync(task.comparison.arms[0].cell.phase)


def _refuse(comparison: Comparison, failed: ArmFailed, prologue: Prologue) -> None:
    """An error in building or tracing an arm: nothing is certified."""
    prologue.refused = failed
    for _, arm in comparison.contrasts:
        prologue.certificates[arm.id] = parity.refused(str(failed.failure))


def _trace(task: Task, group: Group, company: Sequence[str], traced: Traced) -> None:
    """float64 of the arms at once, and of the reference with the first; then each at the precision that is timed."""
    precision = task.comparison.baseline_arm.cell.precision
    limit_s = TRACE_LIMIT_S[_slowest_mode(task.comparison)]
    first = traced.reference is None
    if first:
        _open_reference(task, group)
    task.say("parity in float64 against the NumPy reference")
    exact = _ask_all(group, [*([REFERENCE] if first else []), *company], limit_s, precision="fp64")
    if first:
        group.drop(REFERENCE)
        traced.reference = exact[REFERENCE]
    task.say(f"parity in {precision}, as timed")
    timed = _ask_all(group, company, limit_s, precision=precision)
    traced.sides |= {name: Side(arm=name, float64=exact[name], timed=timed[name]) for name in company}


def _open_reference(task: Task, group: Group) -> None:
    cell, data = task.comparison.baseline_arm.cell, task.bench.data
    group.add(REFERENCE, start_reference(cache=task.cache))
    ask(
        group,
        REFERENCE,
        "open",
        limit_s=lockstep.OPEN_LIMIT_S["eager"],
        cell=cell.to_json(),
        framework=REFERENCE,
        seed=task.bench.seed,
        data=str(data) if data else None,
        cpus=sorted(task.control_cpus),
    )


def _ask_all(group: Group, arms: Sequence[str], limit_s: float, *, precision: str) -> dict[str, Trace]:
    args = {"steps": parity.STEPS, "precision": precision}
    answers = group.ask_all(dict.fromkeys(arms, args), "parity", limit_s=limit_s)
    traces = {}
    for arm, answer in answers.items():
        if isinstance(answer, WorkerFailed):
            raise ArmFailed(arm, answer)
        traces[arm] = Trace.of(answer)
    return traces


def _certify(comparison: Comparison, traced: Traced, prologue: Prologue) -> None:
    """The certificate of every contrast whose two sides are traced by now."""
    for baseline, arm in comparison.contrasts:
        if is_stub(comparison):
            prologue.certificates[arm.id] = parity.skipped(STUB_REASON)
        elif traced.reference and {baseline.id, arm.id} <= traced.sides.keys():
            prologue.certificates[arm.id] = parity.certify(
                reference=traced.reference,
                baseline=traced.sides[baseline.id],
                arm=traced.sides[arm.id],
                precision=arm.cell.precision,
                rtol=getattr(spec_of(comparison), f"{arm.cell.precision.upper()}_RTOL", None),
            )


def _evaluate(task: Task, group: Group, company: Sequence[str], prologue: Prologue) -> None:
    """Train from the initial weights and evaluate; an inference has nothing to train.

    One that fails takes neither certificate nor timing with it: its reason stands where its figures would.
    """
    cell = task.comparison.baseline_arm.cell
    if cell.phase != "train" or is_stub(task.comparison):
        return
    steps = int(cell.workload.get("evaluate_steps"))  # type: ignore[arg-type]
    task.say(f"training {steps} steps to evaluate")
    limit_s = TRACE_LIMIT_S[_slowest_mode(task.comparison)]
    for arm in company:
        try:
            prologue.evaluations[arm] = ask(group, arm, "evaluate", limit_s=limit_s, steps=steps)
        except ArmFailed as failed:
            if failed.failure.kind != "failed":
                raise
            prologue.evaluations[arm] = {"failed": str(failed.failure)}
            task.view.say(f"{task.comparison.id}: the evaluation failed, {failed.failure}")


def _slowest_mode(comparison: Comparison) -> str:
    modes = {arm.cell.mode for arm in comparison.arms}
    return next(mode for mode in ("compiled", "graph", "eager") if mode in modes)


def is_stub(comparison: Comparison) -> bool:
    """Whether its arms do known work, which differs on purpose, instead of a framework's."""
    return comparison.arms[0].cell.workload.name == STUB


def needs_data(comparison: Comparison) -> bool:
    """Whether the workload reads MNIST."""
    return bool(spec_of(comparison).NEEDS_DATA)


def spec_of(comparison: Comparison) -> ModuleType:
    """The spec of its workload."""
    return importlib.import_module(f"workloads.{comparison.arms[0].cell.workload.name}.spec")
