"""Before a comparison's first block: the pilot, the certificate of every contrast, and the evaluations."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.launch.group import Group
from bench.measure import lockstep, parity, provenance, tracing
from bench.measure.lockstep import ArmFailed, Bench, ask
from bench.measure.parity import Certificate
from bench.measure.pilot import Pilot
from bench.measure.prologue import FINAL, Prologue, Task, leave_out, leaving_out, slowest_mode
from bench.measure.tracing import Traced

if TYPE_CHECKING:
    from pathlib import Path

    from bench.matrix.comparison import Comparison
    from bench.measure.view import View

LEAST_EVALUATION = 20  # steps
NEARLY = 0.8  # of the steps that there would be time for: a pilot measures it anew each time
STUB_REASON = "stubs do known work that may differ on purpose: there is nothing to prove"


def begin(
    bench: Bench,
    comparison: Comparison,
    *,
    cache: Path,
    control_cpus: frozenset[int],
    view: View,
    known: Mapping[str, Mapping[str, Any]] | None = None,
    evaluate_s: float = math.inf,
) -> Prologue:
    """Time a pilot, certify, train and evaluate: all that comes before the first block.

    An arm that is unsupported, or whose code raises, is left out, and says so in place of its certificate; the others
    go on. One that crashes, hangs or babbles is returned as `failed`: all may be tried again.
    """
    shared: dict[str, Any] = {"cache": cache, "control_cpus": control_cpus, "view": view}
    more: dict[str, Any] = {"known": known or {}, "evaluate_s": evaluate_s}
    return _prologue(Task(bench=bench, comparison=comparison, measure=True, **shared, **more))


def certify(bench: Bench, comparison: Comparison, *, cache: Path, control_cpus: frozenset[int], view: View) -> Prologue:
    """The certificates alone; nothing is tried again, so that an arm is left out however it failed."""
    given = Task(bench=bench, comparison=comparison, cache=cache, control_cpus=control_cpus, view=view, measure=False)
    return _prologue(given)


def _prologue(task: Task) -> Prologue:
    prologue, traced, pilot = _known(task), Traced(), Pilot()
    bench, names = task.bench, [arm.id for arm in task.comparison.arms]
    try:
        for company in lockstep.companies(names, bench.schedule):
            with Group() as group:
                _company(task, group, company, traced, pilot, prologue)
    except ArmFailed as failed:
        if failed.arm not in prologue.left_out:
            prologue.failed = ArmFailed(failed.arm, lockstep.advised(failed.failure, bench.schedule))
            return prologue
    _tell_left_out(task.comparison, prologue)
    if task.measure and prologue.passed:
        prologue.plan = pilot.of(prologue.measured(task.comparison)).plan(_sync(task), room_s=bench.room_s)
    return prologue


def _known(task: Task) -> Prologue:
    """What is proved and evaluated already."""
    prologue = Prologue()
    for arm, record in task.known.items():
        prologue.certificates[arm] = replace(Certificate.from_json(record), kept=True)
        prologue.evaluations |= record["evaluations"]
    return prologue


def _company(
    task: Task, group: Group, company: Sequence[str], traced: Traced, pilot: Pilot, prologue: Prologue
) -> None:
    """All that arms do in their first processes, in this order: only new ones show how they warm up."""
    task.say("starting one worker an arm")
    arms = [arm for arm in task.comparison.arms if arm.id in company]
    if task.measure:
        for arm in arms:
            with leaving_out(task, group, prologue):
                lockstep.start(task.bench, group, arm, 0, pilot.opened)
    else:
        for name, failure in lockstep.start_together(task.bench, group, arms).items():
            leave_out(task, group, prologue, ArmFailed(name, failure))
    if not group.arms:
        return
    if task.measure:
        task.say("timing the first steps")
        for name in group.arms:
            with leaving_out(task, group, prologue):
                pilot.take_first_steps(group, name)
    if not task.known:
        _prove(task, group, traced, pilot, prologue)
    if task.measure and not prologue.hopeless(task.comparison):
        _evaluate(task, group, pilot, prologue)
        for name in group.arms:
            with leaving_out(task, group, prologue):
                pilot.ask_for_control(group, name, _sync(task))


def _prove(task: Task, group: Group, traced: Traced, pilot: Pilot, prologue: Prologue) -> None:
    """The certificates by the traces; then, where any is worth it, by what the timed programs do next as well."""
    if not task.comparison.is_stub:
        tracing.trace(task, group, traced, prologue, pilot)
    _certify(task.comparison, traced, prologue)
    if traced.sides and not prologue.hopeless(task.comparison):
        tracing.go_on(task, group, traced, prologue)
        _certify(task.comparison, traced, prologue)


def _tell_left_out(comparison: Comparison, prologue: Prologue) -> None:
    """In place of a certificate, why there is none; a proof that failed is the better reason."""
    for baseline, arm in comparison.contrasts:
        by, before = prologue.culprit(baseline.id, arm.id), prologue.certificates.get(arm.id)
        if by and not (before and before.status == "failed"):
            failure = prologue.left_out[by]
            prologue.certificates[arm.id] = parity.left_out(
                by, str(failure), unsupported=failure.kind == "unsupported", before=before
            )


def _sync(task: Task) -> str:
    return lockstep.deciding_sync(task.comparison.arms[0].cell.phase)


def _certify(comparison: Comparison, traced: Traced, prologue: Prologue) -> None:
    """The certificate of every contrast whose two sides are traced by now."""
    for baseline, arm in comparison.contrasts:
        if comparison.is_stub:
            prologue.certificates[arm.id] = parity.skipped(STUB_REASON)
        elif traced.reference and {baseline.id, arm.id} <= traced.sides.keys():
            certificate = parity.certify(
                reference=traced.reference,
                baseline=traced.sides[baseline.id],
                arm=traced.sides[arm.id],
                precision=arm.cell.precision,
                rtol=parity.rtol_of(arm.cell),
                slow=traced.slow,
                device=arm.cell.device,
            )
            prologue.certificates[arm.id] = replace(certificate, made_at=provenance.now())


def _serve(task: Task, prologue: Prologue, due: int) -> bool:
    """Whether the evaluations that are kept serve: of all arms alike, whole or nearly as long as those that are due."""
    kept = [prologue.evaluations.get(arm.id) for arm in task.comparison.arms]
    cut = {one["steps"] for one in kept if one and "cut_from" in one}
    return None not in kept and (not cut or (len(cut) == 1 and min(cut) >= NEARLY * due))


def _steps_to_evaluate(task: Task, wanted: int, pilot: Pilot) -> int:
    """As many as all arms can take in the time that is given, by the pilot's steps; LEAST_EVALUATION at least.

    An arm whose pilot is still to come counts as the slowest so far, and each fold as another training.
    """
    taken_s = [statistics.median(taken) / 1e9 for taken in pilot.step_ns.values() if taken]
    missing = len(task.comparison.arms) - len(taken_s)
    trainings = 1 + int(task.comparison.baseline_arm.cell.workload.mapping.get("folds", 0))  # type: ignore[arg-type]
    whole_s = trainings * (sum(taken_s) + missing * max(taken_s, default=0.0))
    affordable = task.evaluate_s / whole_s if whole_s else math.inf
    return wanted if affordable >= wanted else min(wanted, max(LEAST_EVALUATION, int(affordable)))


def _evaluate(task: Task, group: Group, pilot: Pilot, prologue: Prologue) -> None:
    """Train from the initial weights and evaluate; an inference has nothing to train.

    One that fails takes neither certificate nor timing with it: its reason stands where its figures would.
    """
    cell = task.comparison.baseline_arm.cell
    if cell.phase != "train" or task.comparison.is_stub:
        return
    wanted = int(cell.workload.get("evaluate_steps"))  # type: ignore[arg-type]
    if prologue.evaluate_steps is None:  # decided once: of all arms alike, or of none
        due = _steps_to_evaluate(task, wanted, pilot)
        prologue.evaluate_steps = 0 if _serve(task, prologue, due) else due
    steps = prologue.evaluate_steps
    if not steps:
        return
    of_them = f" of {wanted}, which the budget has no time for" if steps < wanted else ""
    task.say(f"training {steps} steps{of_them} to evaluate")
    limit_s = tracing.LIMIT_S[slowest_mode(task.comparison)]
    for arm in group.arms:
        try:
            found = ask(group, arm, "evaluate", limit_s=limit_s, steps=steps)
            prologue.evaluations[arm] = found | ({"cut_from": wanted} if found["steps"] and steps < wanted else {})
        except ArmFailed as failed:
            if failed.failure.kind not in FINAL:
                raise
            prologue.evaluations[arm] = {"failed": str(failed.failure)}
            task.view.say(f"{task.comparison.id}: the evaluation failed, {failed.failure}")
