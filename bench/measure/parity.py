"""Traces to a certificate: do two implementations do the same work? Pure; the bounds are those that were tried.

parameters   equal counts, and the same input bytes
float64      each arm against the NumPy reference, normwise: gradients and outputs 1e-11, losses and weights 1e-10, over
             the steps in which a rounding error stays small; where they are few, updates at a lower rate by 1e-6
timed        the precision that is timed, by rtol: outputs, gradients and the losses of the first five steps, each arm
             against its own float64; the largest gap between the arms is at most three times the larger of these
unfetched    ten steps whose losses nobody fetches end where the traced ones do
closing      the timed program itself goes on as the rule says, after its warm-up and after its last slice
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.matrix.model import spec_of
from workloads.contract import finite
from workloads.distance import apart, of_layers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.measure.traces import Array, Side, Slow, Trace
    from workloads.contract import Cell

STEPS = 50
LEAST_STEPS = 10  # of a horizon; where it is shorter, updates at a lower rate are traced too
FLOAT64 = {"outputs": 1e-11, "gradients": 1e-11, "losses": 1e-10, "weights": 1e-10, "updates": 1e-6}
TIMED_RTOL = {"fp32": 1e-4}
TIMED_STEPS = 10
GATED_STEPS = 5
# How many times as far as one ulp in every weight leads, correct twins may part: they round at every operation.
ROUNDED = 100.0
TIMED_ROOM = 10.0  # arms flip other rectifiers: what ten ulp of the timed precision lead losses to is known so roughly
UNFETCHED = {"cpu": 1e-6, "cuda": 1e-3}  # a GPU adds up in another order each time
LEAST_UNFETCHED = 3  # steps that tell anything: the first and the last are fetched around
CLOSING_RTOL = 1e-4
GAP_FACTOR = 3.0
GAP_FLOOR_ULP = 8
IDLE, STILL = "closing: steps without an update", "closing: arrays that stood still"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison with its bound; `place` names the array in which the value is largest."""

    name: str
    arm: str
    place: str
    value: float | None
    limit: float
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Whether baseline and arm are the same work; `max_rel_error` is the largest float64 error to the reference.

    status  passed, failed: another work was done, or skipped; or one of LEFT_OUT
    by      of those, whose doing it is: an arm's id, or `reference`
    horizon  of a training: over how many steps what was held, and why no more (`horizon_of`)
    made_at  when it was proved; kept: for an earlier run, on the same terms (bench.measure.kept_certificates)
    """

    status: str
    reason: str
    max_rel_error: float | None
    checks: tuple[Check, ...] = field(default=())
    by: str | None = None
    horizon: Mapping[str, Any] | None = None
    made_at: str | None = None
    kept: bool = False

    def to_json(self) -> dict[str, Any]:
        """As a line of parity.jsonl."""
        return {**asdict(self), "checks": [asdict(check) for check in self.checks]}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Certificate:
        """The inverse of `to_json`; what else the line says is left out."""
        own = {name: plain[name] for name in cls.__dataclass_fields__ if name in plain}
        return cls(**own | {"checks": tuple(Check(**check) for check in plain["checks"])})


def certify(
    *,
    reference: Trace,
    baseline: Side,
    arm: Side,
    precision: str,
    rtol: Mapping[str, float] | None = None,
    slow: Slow | None = None,
    device: str = "cpu",
) -> Certificate:
    """The certificate of one contrast.

    rtol  bounds of a workload's own at the timed precision, by group, where TIMED_RTOL cannot hold
    slow  the reference's trace at a lower learning rate, where the horizon is short
    """
    bounds = _timed_bounds(precision, rtol)
    gated = gated_steps(reference, bounds["losses"])
    checks: list[Check] = []
    for side in (baseline, arm):
        checks += _same_problem(reference, side)
        checks += _against(reference, side.float64, side.arm)
        if slow and side.slow:
            checks += _against(slow.trace, side.slow, side.arm)
        checks += _at_timed_precision(reference, side, precision, bounds, gated)
        if side.timed.unfetched:
            found = side.timed.unfetched
            checks.append(_check("unfetched steps", side.arm, found["place"], found["value"], UNFETCHED[device]))
        if side.closing:
            checks += closing_checks(side.closing, side.arm, rtol)
    if "losses" in baseline.timed.groups and "losses" in arm.timed.groups:
        checks.append(_gap(baseline, arm, gated))
    failed = [check for check in checks if not check.passed]
    errors = [check.value for check in checks if check.name.startswith("float64") and check.value is not None]
    return Certificate(
        status="failed" if failed else "passed",
        reason=_sentence(failed),
        max_rel_error=max(errors, default=None),
        checks=tuple(checks),
        horizon=horizon_of(reference, slow, gated) if reference.steps else None,
    )


def gated_steps(reference: Trace, bound: float) -> int:
    """Of the first five, those before ten ulp of the timed precision lead near a loss's bound; one at least."""
    most = min(GATED_STEPS, reference.steps or GATED_STEPS)
    led = reference.leads_as_timed("losses")[:most]
    return max(1, next((i for i, far in enumerate(led) if far > bound / TIMED_ROOM), most))


def unfetched_steps(reference: Trace, cell: Cell) -> int:
    """How many steps are taken unfetched: ten, or on a GPU, which adds up in another order each time, those gated.

    0, for no such check, where that is so few that every one is next to a fetch.
    """
    if cell.device != "cuda":
        return TIMED_STEPS
    gated = gated_steps(reference, _timed_bounds(cell.precision, rtol_of(cell))["losses"])
    return gated if gated >= LEAST_UNFETCHED else 0


def horizon_of(reference: Trace, slow: Slow | None, gated: int) -> dict[str, Any]:
    """What a certificate says of its horizon.

    returns  steps held at the workload's own learning rate, sensitivity: how far one ulp in every weight leads by then;
             timed_steps at the precision that is timed; updates: rate, steps and sensitivity of those at a lower rate
    """
    updates = None
    if slow:
        led = finite(slow.trace.leads_to("updates"))
        updates = {"rate": slow.rate, "steps": slow.trace.steps, "sensitivity": led}
    led = finite(reference.leads_to("weights")) if reference.sensitivity else None
    return {"steps": reference.steps, "sensitivity": led, "timed_steps": gated, "updates": updates}


def closing_checks(found: Mapping[str, Any], arm: str, rtol: Mapping[str, float] | None = None) -> list[Check]:
    """Whether a timed program went on as the rule of its workload says; nothing where it only infers.

    found  what a worker's `closing` answered
    rtol   as for `certify`: gradients of a float32 that is compiled, against those of one that is not
    """
    if not found["steps"]:
        return []
    limit = max(CLOSING_RTOL, (rtol or {}).get("gradients", 0.0))
    idle, still = found["idle"], found["still"]
    after = f"after step {idle[0]}" if idle else f"{found['steps']} steps"
    return [
        _check(IDLE, arm, after, len(idle), 0.0),
        _check(STILL, arm, still[0] if still else "none", len(still), 0.0),
        _check("closing: update", arm, found["place"] or "none", found["error"], limit),
    ]


def closed(found: Mapping[str, Any], cell: Cell, arm: str) -> dict[str, Any]:
    """What an outcome keeps of a trial's last steps: how many, how far from the rule and where, what was wrong."""
    wrong = [check for check in closing_checks(found, arm, rtol_of(cell)) if not check.passed]
    reason = _sentence(wrong) or None
    return {"steps": found["steps"], "error": found["error"], "place": found["place"], "reason": reason}


def rtol_of(cell: Cell) -> dict[str, float] | None:
    """The bounds that the cell's workload has of its own at the precision that is timed, by group."""
    found: dict[str, float] | None = getattr(spec_of(cell.workload.name), f"{cell.precision.upper()}_RTOL", None)
    return found


def left_out(by: str, reason: str, *, unsupported: bool, before: Certificate | None = None) -> Certificate:
    """In place of a certificate: why a contrast is not measured, which is no failed proof.

    by      the arm, or the reference, that cannot do what is asked, or failed
    before  what was proved until then
    """
    proved = before or skipped("")
    return replace(proved, status="unsupported" if unsupported else "broken", reason=reason, by=by)


def skipped(reason: str) -> Certificate:
    """The certificate of a contrast of stubs: their work differs on purpose, and known work is what they are for."""
    return Certificate(status="skipped", reason=reason, max_rel_error=None)


def _timed_bounds(precision: str, rtol: Mapping[str, float] | None) -> dict[str, float]:
    return {group: (rtol or {}).get(group, TIMED_RTOL[precision]) for group in FLOAT64}


def _same_problem(reference: Trace, side: Side) -> list[Check]:
    counts = abs(side.float64.parameter_count - reference.parameter_count)
    same_bytes = side.float64.inputs_sha256 == side.timed.inputs_sha256 == reference.inputs_sha256
    return [
        Check(name="parameters", arm=side.arm, place="count", value=float(counts), limit=0.0, passed=counts == 0),
        Check(name="inputs", arm=side.arm, place="sha256", value=float(not same_bytes), limit=0.0, passed=same_bytes),
    ]


def _against(reference: Trace, trace: Trace, arm: str) -> list[Check]:
    """Every group against the reference's of the same steps."""
    return [
        _worst(
            f"float64 {_of(reference, group)}", arm, trace.groups.get(group, {}), arrays, _limit(reference, group),
            _scales(reference, group),
        )
        for group, arrays in _forward(reference).items()
    ]  # fmt: skip


def _of(reference: Trace, group: str) -> str:
    return "losses of slow steps" if group == "losses" and "updates" in reference.groups else group


def _scales(reference: Trace, group: str) -> Mapping[str, float]:
    """What an array that cancels to nearly zero is held to: the largest that it was, or of its layer's gradients."""
    if group in ("weights", "updates"):
        return reference.scales
    return of_layers(reference.groups[group]) if group == "gradients" else {}


def _limit(reference: Trace, group: str) -> float:
    """The bound that was tried, or what rounding makes of one ulp where a network is so deep that it is more."""
    return max(FLOAT64[group], ROUNDED * reference.leads_to(group))


def _forward(reference: Trace) -> dict[str, Mapping[str, Array]]:
    """The groups, what comes first in a step first; arrays in the order of computation, as the weights have them."""
    order = reference.groups.get("weights", {})
    return {
        group: {name: arrays[name] for name in sorted(arrays, key=list(order).index)}
        if set(arrays) <= set(order)
        else arrays
        for group, arrays in reference.groups.items()
    }


def _at_timed_precision(
    reference: Trace, side: Side, precision: str, bounds: Mapping[str, float], gated: int
) -> list[Check]:
    """Outputs, gradients and the first losses, against the arm's own float64 trace: a wrong second step is seen too."""
    exact, timed = side.float64.groups, side.timed.groups
    checks = []
    for group in ("outputs", "gradients"):
        if group in exact:
            limit = max(bounds[group], GAP_FACTOR * max(reference.leads_as_timed(group), default=0.0))
            scales = _scales(side.float64, group)
            checks.append(_worst(f"{precision} {group}", side.arm, timed.get(group, {}), exact[group], limit, scales))
    if "losses" in exact:
        place = _first(gated)
        first = {place: timed["losses"]["losses"][:gated]}
        truth = {place: exact["losses"]["losses"][:gated]}
        checks.append(_worst(f"{precision} losses", side.arm, first, truth, bounds["losses"], {}))
    return checks


def _worst(
    name: str,
    arm: str,
    found: Mapping[str, Array],
    truth: Mapping[str, Array],
    limit: float,
    scales: Mapping[str, float],
) -> Check:
    if set(found) != set(truth):
        return _check(name, arm, "names of arrays", float("inf"), limit)
    errors = {place: apart(found[place], truth[place], scales.get(place, 0.0)) for place in truth}
    over = (place for place, error in errors.items() if not error <= limit)
    place = next(over, max(errors, key=lambda key: errors[key]))
    return _check(name, arm, place, errors[place], limit)


def _gap(baseline: Side, arm: Side, gated: int) -> Check:
    """Over the first steps the arms may part by three times what float32 costs either of them, floor 8 ulp."""
    ours, theirs = (side.timed.groups["losses"]["losses"][:gated] for side in (baseline, arm))
    truth = baseline.float64.groups["losses"]["losses"][:gated]
    own = max(apart(ours, truth), apart(theirs, truth))
    limit = max(GAP_FACTOR * own, GAP_FLOOR_ULP * float(np.finfo(np.float32).eps))
    return _check("timed losses", arm.arm, _first(gated), apart(theirs, ours), limit)


def _first(gated: int) -> str:
    return f"first {gated} steps" if gated > 1 else "first step"


def _check(name: str, arm: str, place: str, value: float | None, limit: float) -> Check:
    """One check; a value or a limit that is not finite passes nothing."""
    known = value is not None and bool(np.isfinite(value))
    return Check(
        name=name,
        arm=arm,
        place=place,
        value=float(value) if known and value is not None else None,
        limit=limit if np.isfinite(limit) else 0.0,
        passed=known and value is not None and bool(np.isfinite(limit)) and value <= limit,
    )


def _sentence(failed: Sequence[Check]) -> str:
    if not failed:
        return ""
    worst = failed[0]
    if worst.name == "parameters":
        text = f"{worst.arm} has another number of parameters than the reference (off by {worst.value:.0f})"
    elif worst.name == "inputs":
        text = f"{worst.arm} was given other input bytes than the reference"
    elif worst.name == IDLE:
        text = f"{worst.arm} leaves out updates: no weight moved {worst.place}"
    elif worst.name == STILL:
        text = f"{worst.arm} leaves out updates: {worst.place} stood still, and its gradient is not zero"
    else:
        found = "not finite or of another shape" if worst.value is None else f"{worst.value:.1e}"
        text = f"{worst.arm}: {worst.name} ({worst.place}) {found}, limit {worst.limit:.1e}"
    more = f", and {len(failed) - 1} more checks" if len(failed) > 1 else ""
    return text + more
