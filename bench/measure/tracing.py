"""What a certificate is made from: the traces of a comparison's arms and of the reference, asked of their workers."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bench.errors import WorkerFailed
from bench.launch.local import start_reference
from bench.measure import lockstep, parity
from bench.measure.lockstep import ArmFailed, ask
from bench.measure.prologue import Prologue, Task, leaving_out, slowest_mode
from bench.measure.traces import Side, Slow, Trace
from bench.records import REFERENCE

if TYPE_CHECKING:
    from bench.launch.group import Group
    from bench.measure.pilot import Pilot

LIMIT_S = {"eager": 900.0, "graph": 900.0, "compiled": 1800.0}
PIECE_LIMIT_S = 60.0
TRACE_S = 20.0  # of a trace in float64, about; no fewer steps than ten
SLOW_RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
UNSEEN_STEPS, GO_ON_STEPS, GO_ON_S = 60, 128, 5.0


@dataclass
class Traced:
    """The traces so far: under schedule serial one arm's after another's.

    slow  the reference's at a lower learning rate, where its horizon is short
    """

    reference: Trace | None = None
    slow: Slow | None = None
    sides: dict[str, Side] = field(default_factory=dict)


def trace(task: Task, group: Group, traced: Traced, prologue: Prologue, pilot: Pilot) -> None:
    """The reference first, which says how many steps can be held; then the arms: in float64, and as timed."""
    precision = task.comparison.baseline_arm.cell.precision
    if traced.reference is None:
        task.say("how far a rounding error leads, in the NumPy reference")
        with leaving_out(task, group, prologue):
            _trace_reference(task, group, traced, _steps_to_trace(pilot))
    if traced.reference is None:
        return
    task.say("parity in float64 against the NumPy reference")
    steps = traced.reference.steps or len(traced.reference.groups["outputs"])
    exact = _ask_all(task, group, prologue, "parity", steps=steps, precision="fp64")
    slow: dict[str, Trace] = {}
    if traced.slow:
        given = {"steps": traced.slow.trace.steps, "rate": traced.slow.rate}
        slow = _ask_all(task, group, prologue, "parity", precision="fp64", **given)
    task.say(f"parity in {precision}, as timed")
    unfetched = parity.unfetched_steps(traced.reference, task.comparison.baseline_arm.cell)
    few = parity.TIMED_STEPS if traced.reference.steps else steps  # an inference's steps are its batches
    as_timed = {"steps": few, "precision": precision, "unfetched": unfetched}
    timed = _ask_all(task, group, prologue, "parity", **as_timed)
    for name, as_it_is in timed.items():
        traced.sides[name] = Side(arm=name, float64=exact[name], timed=as_it_is, slow=slow.get(name))


def go_on(task: Task, group: Group, traced: Traced, prologue: Prologue) -> None:
    """Steps of the timed programs themselves, after some that nobody looked at."""
    if task.comparison.baseline_arm.cell.phase == "infer":
        return
    task.say("going on with the timed step")
    for name in group.arms:
        with leaving_out(task, group, prologue):
            if not task.measure:  # else the pilot has taken its steps
                step_ns = ask(group, name, "warm", limit_s=LIMIT_S["eager"], steps=1)["step_ns"][0]
                most = max(1, min(UNSEEN_STEPS, int(GO_ON_S * 1e9 / max(step_ns, 1))))
                ask(group, name, "measure", limit_s=LIMIT_S["eager"], steps=most, settle=0, sync="slice")
            asked = {"steps": GO_ON_STEPS, "most_s": GO_ON_S}
            closing = ask(group, name, "closing", limit_s=LIMIT_S["eager"], **asked)
            traced.sides[name] = replace(traced.sides[name], closing=closing)


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
    answer = ask(group, REFERENCE, "horizon", limit_s=LIMIT_S["eager"], **asked)
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
    limit_s = LIMIT_S[slowest_mode(task.comparison)]
    answers = group.ask_all(dict.fromkeys(group.arms, asked), verb, limit_s=limit_s)
    traces = {}
    for name, answer in answers.items():
        with leaving_out(task, group, prologue):
            if isinstance(answer, WorkerFailed):
                raise ArmFailed(name, answer)
            traces[name] = _trace_of(group, name, answer)
    return traces
