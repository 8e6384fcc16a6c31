"""Before a comparison's first block: the pilot, the certificate of every contrast, and the evaluations."""

from __future__ import annotations

import importlib
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bench import lockstep, parity, provenance
from bench.errors import WorkerFailed
from bench.launch.group import Group
from bench.launch.local import start_reference
from bench.lockstep import ArmFailed, Bench, ask
from bench.parity import REFERENCE, Certificate, Side, Slow, Trace
from bench.pilot import Pilot
from workloads.contract import STUB

if TYPE_CHECKING:
    from pathlib import Path

    from bench.comparison import Comparison
    from bench.console import View
    from bench.plan import Plan

TRACE_LIMIT_S = {"eager": 900.0, "graph": 900.0, "compiled": 1800.0}
PIECE_LIMIT_S = 60.0
TRACE_S = 20.0  # of a trace in float64, about; no fewer steps than ten
SLOW_RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
LEAST_EVALUATION = 20  # steps
UNSEEN_STEPS, GO_ON_STEPS, GO_ON_S = 60, 128, 5.0
FINAL = ("unsupported", "failed")  # said so, or raised: it would again
STUB_REASON = "stubs do known work that may differ on purpose: there is nothing to prove"


@dataclass
class Prologue:
    """What came before the first block: certificates by arm, evaluations, the plan.

    left_out  the arms, or the reference, that cannot do what is asked, or whose code raised an error: the same would
              happen again
    failed    the arm, or the reference, whose worker crashed, hung or babbled: that may not happen again
    """

    certificates: dict[str, Certificate] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    plan: Plan | None = None
    left_out: dict[str, WorkerFailed] = field(default_factory=dict)
    failed: ArmFailed | None = None

    @property
    def passed(self) -> bool:
        """Whether at least one contrast may be measured."""
        return any(certificate.status in parity.MEASURED for certificate in self.certificates.values())

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
        passed = {arm for arm, one in self.certificates.items() if one.status in parity.MEASURED}
        return [arm.id for arm in comparison.arms if arm.id in passed | {comparison.baseline}]


@dataclass
class Traced:
    """The traces so far: under schedule serial one arm's after another's.

    slow  the reference's at a lower learning rate, where its horizon is short
    """

    reference: Trace | None = None
    slow: Slow | None = None
    sides: dict[str, Side] = field(default_factory=dict)


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
            with _leaving_out(task, group, prologue):
                lockstep.start(task.bench, group, arm, 0, pilot.opened)
    else:
        for name, failure in lockstep.start_together(task.bench, group, arms).items():
            _leave_out(task, group, prologue, ArmFailed(name, failure))
    if not group.arms:
        return
    if task.measure:
        task.say("timing the first steps")
        for name in group.arms:
            with _leaving_out(task, group, prologue):
                pilot.take_first_steps(group, name)
    if not task.known:
        if not is_stub(task.comparison):
            _trace(task, group, traced, prologue, pilot)
        _certify(task.comparison, traced, prologue)
    if task.measure and not prologue.hopeless(task.comparison):
        _evaluate(task, group, [arm for arm in group.arms if not _is_whole(prologue, arm)], pilot, prologue)
        for name in group.arms:
            with _leaving_out(task, group, prologue):
                pilot.ask_for_control(group, name, _sync(task))


@contextmanager
def _leaving_out(task: Task, group: Group, prologue: Prologue) -> Iterator[None]:
    """What one arm does, which may take it out of the comparison. Raises ArmFailed as `_leave_out` does."""
    try:
        yield
    except ArmFailed as failed:
        _leave_out(task, group, prologue, failed)


def _leave_out(task: Task, group: Group, prologue: Prologue, failed: ArmFailed) -> None:
    """Go on without an arm. Raises ArmFailed where it may be tried again, or where nothing is left to compare."""
    if task.measure and failed.failure.kind not in FINAL:
        raise failed
    prologue.left_out[failed.arm] = failed.failure
    lockstep.remove(task.bench, group, failed.arm)
    if prologue.over(task.comparison):
        raise failed


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


def _trace(task: Task, group: Group, traced: Traced, prologue: Prologue, pilot: Pilot) -> None:
    """The reference first, which says how many steps can be held; then the arms: float64, as timed, going on."""
    precision = task.comparison.baseline_arm.cell.precision
    if traced.reference is None:
        task.say("how far a rounding error leads, in the NumPy reference")
        with _leaving_out(task, group, prologue):
            _trace_reference(task, group, traced, _steps_to_trace(pilot))
    if traced.reference is None:
        return
    task.say("parity in float64 against the NumPy reference")
    steps = traced.reference.steps or parity.STEPS
    exact = _ask_all(task, group, prologue, "parity", steps=steps, precision="fp64")
    slow: dict[str, Trace] = {}
    if traced.slow:
        given = {"steps": traced.slow.trace.steps, "rate": traced.slow.rate}
        slow = _ask_all(task, group, prologue, "parity", precision="fp64", **given)
    task.say(f"parity in {precision}, as timed")
    as_timed = {"steps": parity.TIMED_STEPS, "precision": precision, "unfetched": True}
    timed = _ask_all(task, group, prologue, "parity", **as_timed)
    closings = _go_on(task, group, prologue)
    for name in closings:
        traced.sides[name] = Side(
            arm=name, float64=exact[name], timed=timed[name], slow=slow.get(name), closing=closings[name]
        )


def _steps_to_trace(pilot: Pilot) -> int:
    """As many as the slowest arm takes in TRACE_S, LEAST_STEPS at least and STEPS at most."""
    slowest_s = max((statistics.median(taken) / 1e9 for taken in pilot.step_ns.values() if taken), default=0.0)
    most = int(TRACE_S / slowest_s) if slowest_s else parity.STEPS
    return min(parity.STEPS, max(parity.LEAST_STEPS, most))


def _trace_reference(task: Task, group: Group, traced: Traced, steps: int) -> None:
    """Its trace over the horizon; where that is short, another at a tenth of the learning rate, or of that again."""
    _open_reference(task, group)
    traced.reference = _horizon(task, group, steps, 1.0)
    if task.comparison.baseline_arm.cell.phase == "train":
        for rate in SLOW_RATES:
            if (traced.slow.trace if traced.slow else traced.reference).steps >= min(steps, parity.LEAST_STEPS):
                break
            traced.slow = Slow(rate=rate, trace=_horizon(task, group, steps, rate))
    group.drop(REFERENCE)


def _horizon(task: Task, group: Group, steps: int, rate: float) -> Trace:
    limit = parity.FLOAT64["weights" if rate == 1 else "updates"] / parity.ROUNDED
    asked = {"steps": steps, "rate": rate, "limit": limit, "most_s": TRACE_S}
    answer = ask(group, REFERENCE, "horizon", limit_s=TRACE_LIMIT_S["eager"], **asked)
    return _trace_of(group, REFERENCE, answer)


def _trace_of(group: Group, name: str, answer: dict[str, Any]) -> Trace:
    """The answer's trace, of which large arrays are fetched piece by piece. Raises ArmFailed."""

    def piece(kind: str, array: str, start: int) -> dict[str, Any]:
        asked = {"kind": kind, "name": array, "start": start}
        answer = group.ask_all({name: asked}, "piece", limit_s=PIECE_LIMIT_S)[name]
        if isinstance(answer, WorkerFailed):
            raise ArmFailed(name, answer)
        return answer

    return Trace.of(answer, piece)


def _go_on(task: Task, group: Group, prologue: Prologue) -> dict[str, dict[str, Any]]:
    """Steps of the timed programs themselves, after some that nobody looked at."""
    if task.comparison.baseline_arm.cell.phase == "infer":
        return {name: {"steps": 0} for name in group.arms}
    task.say("going on with the timed step")
    closings = {}
    for name in group.arms:
        with _leaving_out(task, group, prologue):
            if not task.measure:  # else the pilot has taken its steps
                step_ns = ask(group, name, "warm", limit_s=TRACE_LIMIT_S["eager"], steps=1)["step_ns"][0]
                most = max(1, min(UNSEEN_STEPS, int(GO_ON_S * 1e9 / max(step_ns, 1))))
                ask(group, name, "measure", limit_s=TRACE_LIMIT_S["eager"], steps=most, settle=0, sync="slice")
            asked = {"steps": GO_ON_STEPS, "most_s": GO_ON_S}
            closings[name] = ask(group, name, "closing", limit_s=TRACE_LIMIT_S["eager"], **asked)
    return closings


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


def _ask_all(task: Task, group: Group, prologue: Prologue, verb: str, **asked: Any) -> dict[str, Trace]:
    """The traces of all that are in the group, by name; who fails leaves it."""
    limit_s = TRACE_LIMIT_S[_slowest_mode(task.comparison)]
    answers = group.ask_all(dict.fromkeys(group.arms, asked), verb, limit_s=limit_s)
    traces = {}
    for name, answer in answers.items():
        with _leaving_out(task, group, prologue):
            if isinstance(answer, WorkerFailed):
                raise ArmFailed(name, answer)
            traces[name] = _trace_of(group, name, answer)
    return traces


def _certify(comparison: Comparison, traced: Traced, prologue: Prologue) -> None:
    """The certificate of every contrast whose two sides are traced by now."""
    for baseline, arm in comparison.contrasts:
        if is_stub(comparison):
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


def _is_whole(prologue: Prologue, arm: str) -> bool:
    """Whether an evaluation of it is there, over all its steps."""
    found = prologue.evaluations.get(arm)
    return found is not None and "cut_from" not in found


def _steps_to_evaluate(task: Task, wanted: int, pilot: Pilot) -> int:
    """As many as all arms can take in the time that is given, by the pilot's steps; LEAST_EVALUATION at least."""
    whole_s = sum(statistics.median(taken) / 1e9 for taken in pilot.step_ns.values() if taken)
    affordable = task.evaluate_s / whole_s if whole_s else math.inf
    return wanted if affordable >= wanted else min(wanted, max(LEAST_EVALUATION, int(affordable)))


def _evaluate(task: Task, group: Group, company: Sequence[str], pilot: Pilot, prologue: Prologue) -> None:
    """Train from the initial weights and evaluate; an inference has nothing to train.

    One that fails takes neither certificate nor timing with it: its reason stands where its figures would.
    """
    cell = task.comparison.baseline_arm.cell
    if cell.phase != "train" or is_stub(task.comparison) or not company:
        return
    wanted = int(cell.workload.get("evaluate_steps"))  # type: ignore[arg-type]
    steps = _steps_to_evaluate(task, wanted, pilot)
    of_them = f" of {wanted}, which the budget has no time for" if steps < wanted else ""
    task.say(f"training {steps} steps{of_them} to evaluate")
    limit_s = TRACE_LIMIT_S[_slowest_mode(task.comparison)]
    for arm in company:
        try:
            found = ask(group, arm, "evaluate", limit_s=limit_s, steps=steps)
            prologue.evaluations[arm] = found | ({"cut_from": wanted} if found["steps"] and steps < wanted else {})
        except ArmFailed as failed:
            if failed.failure.kind not in FINAL:
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
