"""Before a comparison's first block: the certificate of every contrast, the evaluations, and the pilot."""

from __future__ import annotations

import importlib
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench import lockstep, parity, schedule
from bench.errors import WorkerFailed
from bench.launch.group import Group
from bench.launch.local import start_reference
from bench.lockstep import ArmFailed, Bench, Plan, ask
from bench.parity import Certificate, Side, Trace
from workloads.contract import STUB

if TYPE_CHECKING:
    from pathlib import Path

    from bench.comparison import Comparison
    from bench.console import View

REFERENCE = "reference"
TRACE_LIMIT_S = {"eager": 900.0, "graph": 900.0, "compiled": 1800.0}
WARM_S = 1.0
WARM_STEPS = (5, 300)
PILOT_STEPS = 20

STUB_REASON = "stubs do known work that may differ on purpose: there is nothing to prove"

Say = Callable[[str], None]


@dataclass
class Prologue:
    """What came before the first block: certificates by arm, evaluations, the plan.

    refused  the arm whose implementation raised an error, for its log: no certificate without a trace
    failed   the arm whose worker crashed, hung or babbled: nothing is known about its implementation
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


def begin(bench: Bench, comparison: Comparison, *, cache: Path, control_cpus: frozenset[int], view: View) -> Prologue:
    """Certify, train and evaluate, time a pilot: all that comes before the first block.

    An arm whose trace raises has no certificate: its contrasts are failed, with its error as the reason. An arm that
    crashes, hangs or babbles is returned as `failed`, and may be tried again.
    """
    return _prologue(bench, comparison, cache=cache, cpus=control_cpus, view=view, measure=True)


def certify(bench: Bench, comparison: Comparison, *, cache: Path, control_cpus: frozenset[int], view: View) -> Prologue:
    """The certificates alone."""
    return _prologue(bench, comparison, cache=cache, cpus=control_cpus, view=view, measure=False)


def _prologue(
    bench: Bench, comparison: Comparison, *, cache: Path, cpus: frozenset[int], view: View, measure: bool
) -> Prologue:
    def say(text: str) -> None:
        view.stage(comparison.id, text)

    prologue = Prologue()
    with Group() as group:
        try:
            say("starting one worker an arm")
            for arm in comparison.arms:
                lockstep.start(bench, group, arm, 0, {})
            if is_stub(comparison):
                prologue.certificates = {arm.id: parity.skipped(STUB_REASON) for _, arm in comparison.contrasts}
            else:
                sides, reference = _traces(bench, group, comparison, cache, cpus, say)
                _certify(comparison, sides, reference, prologue)
            if prologue.passed and measure:
                _evaluate(group, comparison, prologue, say)
                prologue.plan = _pilot(group, comparison)
        except ArmFailed as failed:
            if failed.failure.kind == "failed":
                _refuse(comparison, failed, prologue)
            else:
                prologue.failed = failed
    return prologue


def _refuse(comparison: Comparison, failed: ArmFailed, prologue: Prologue) -> None:
    """An error in building or tracing an arm: nothing is certified."""
    prologue.refused = failed
    for _, arm in comparison.contrasts:
        prologue.certificates[arm.id] = parity.refused(str(failed.failure))


def _traces(
    bench: Bench, group: Group, comparison: Comparison, cache: Path, cpus: frozenset[int], say: Say
) -> tuple[dict[str, Side], Trace]:
    """float64 of the reference and all arms at once, then every arm at the precision that is timed."""
    cell = comparison.baseline_arm.cell
    group.add(REFERENCE, start_reference(cache=cache))
    plain = {"framework": REFERENCE, "seed": bench.seed, "cpus": sorted(cpus)}
    data = str(bench.data) if bench.data else None
    ask(group, REFERENCE, "open", limit_s=lockstep.OPEN_LIMIT_S["eager"], cell=cell.to_json(), data=data, **plain)
    names = [arm.id for arm in comparison.arms]
    limit_s = TRACE_LIMIT_S[_slowest_mode(comparison)]
    say("parity in float64 against the NumPy reference")
    exact = _ask_all(group, [REFERENCE, *names], limit_s, precision="fp64")
    group.drop(REFERENCE)
    say(f"parity in {cell.precision}, as timed")
    timed = _ask_all(group, names, limit_s, precision=cell.precision)
    sides = {name: Side(arm=name, float64=exact[name], timed=timed[name]) for name in names}
    return sides, exact[REFERENCE]


def _ask_all(group: Group, arms: list[str], limit_s: float, *, precision: str) -> dict[str, Trace]:
    args = {"steps": parity.STEPS, "precision": precision}
    answers = group.ask_all(dict.fromkeys(arms, args), "parity", limit_s=limit_s)
    traces = {}
    for arm, answer in answers.items():
        if isinstance(answer, WorkerFailed):
            raise ArmFailed(arm, answer)
        traces[arm] = Trace.of(answer)
    return traces


def _certify(comparison: Comparison, sides: dict[str, Side], reference: Trace, prologue: Prologue) -> None:
    for baseline, arm in comparison.contrasts:
        prologue.certificates[arm.id] = parity.certify(
            reference=reference, baseline=sides[baseline.id], arm=sides[arm.id], precision=arm.cell.precision
        )


def _evaluate(group: Group, comparison: Comparison, prologue: Prologue, say: Say) -> None:
    """Train from the initial weights and evaluate; an inference has nothing to train."""
    cell = comparison.baseline_arm.cell
    if cell.phase != "train" or is_stub(comparison):
        return
    steps = int(cell.workload.get("evaluate_steps"))  # type: ignore[arg-type]
    say(f"training {steps} steps to evaluate")
    limit_s = TRACE_LIMIT_S[_slowest_mode(comparison)]
    for arm in comparison.arms:
        prologue.evaluations[arm.id] = ask(group, arm.id, "evaluate", limit_s=limit_s, steps=steps)


def _pilot(group: Group, comparison: Comparison) -> Plan:
    """Warm every arm alone until about a second has gone, and take its last steps as typical."""
    warm_steps, typical = {}, {}
    for arm in comparison.arms:
        first = ask(group, arm.id, "warm", limit_s=lockstep.SLICE_LIMIT_S * 5, steps=WARM_STEPS[0])["step_ns"]
        steps = min(WARM_STEPS[1], max(WARM_STEPS[0], math.ceil(WARM_S * 1e9 / statistics.median(first))))
        more = ask(group, arm.id, "warm", limit_s=lockstep.SLICE_LIMIT_S * 5, steps=steps)["step_ns"]
        warm_steps[arm.id], typical[arm.id] = steps, more[-PILOT_STEPS:]
    return Plan(
        slices=schedule.slice_plan(typical, syncs=1),
        warm_steps=warm_steps,
        step_ns={arm: statistics.median(times) for arm, times in typical.items()},
    )


def _slowest_mode(comparison: Comparison) -> str:
    modes = {arm.cell.mode for arm in comparison.arms}
    return next(mode for mode in ("compiled", "graph", "eager") if mode in modes)


def is_stub(comparison: Comparison) -> bool:
    """Whether its arms do known work, which differs on purpose, instead of a framework's."""
    return comparison.arms[0].cell.workload.name == STUB


def needs_data(comparison: Comparison) -> bool:
    """Whether the workload reads MNIST."""
    name = comparison.arms[0].cell.workload.name
    return bool(importlib.import_module(f"workloads.{name}.spec").NEEDS_DATA)
