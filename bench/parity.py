"""Traces to a certificate: do two implementations do the same work? Pure; the bounds are those that were tried.

parameters   equal counts, and the same input bytes
float64      each arm against the NumPy reference, normwise: gradients and outputs 1e-11, losses and weights 1e-10
timed        the precision that is timed, by rtol: outputs, gradients and the losses of the first five steps, each arm
against its own float64; the largest gap between the arms is at most three times the larger of these
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from workloads.contract import unpack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STEPS = 50
FLOAT64 = {"outputs": 1e-11, "gradients": 1e-11, "losses": 1e-10, "weights": 1e-10}
TIMED_RTOL = {"fp32": 1e-4}
GATED_STEPS = 5
GAP_FACTOR = 3.0
GAP_FLOOR_ULP = 8
REFERENCE = "reference"  # the NumPy reference, as a side
MEASURED = ("passed", "skipped")  # a contrast with such a certificate is measured
LEFT_OUT = ("unsupported", "broken")  # nothing was proved, because a side or the reference said so, or failed

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a worker's `parity` answered: arrays in the spec's neutral layout, float64."""

    parameter_count: int
    inputs_sha256: str
    groups: Mapping[str, Mapping[str, Array]]

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Trace:
        """From the worker's JSON; a loss that was not finite becomes NaN and fails every check."""
        groups: dict[str, dict[str, Array]] = {}
        for name in ("outputs", "gradients", "weights"):
            if name in answer:
                groups[name] = {key: unpack(value).astype(np.float64) for key, value in answer[name].items()}
        if "losses" in answer:
            losses = [np.nan if loss is None else loss for loss in answer["losses"]]
            groups["losses"] = {"losses": np.asarray(losses, np.float64)}
        return cls(parameter_count=answer["parameter_count"], inputs_sha256=answer["inputs_sha256"], groups=groups)


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
    """

    status: str
    reason: str
    max_rel_error: float | None
    checks: tuple[Check, ...] = field(default=())
    by: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As a line of parity.jsonl."""
        return {**asdict(self), "checks": [asdict(check) for check in self.checks]}


@dataclass(frozen=True, kw_only=True)
class Side:
    """An arm's two traces: the same build in float64, and at the precision that is timed."""

    arm: str
    float64: Trace
    timed: Trace


def certify(
    *, reference: Trace, baseline: Side, arm: Side, precision: str, rtol: Mapping[str, float] | None = None
) -> Certificate:
    """The certificate of one contrast.

    rtol  bounds of a workload's own at the timed precision, by group, where TIMED_RTOL cannot hold
    """
    bounds = {group: (rtol or {}).get(group, TIMED_RTOL[precision]) for group in FLOAT64}
    checks: list[Check] = []
    for side in (baseline, arm):
        checks += _same_problem(reference, side)
        checks += _against_reference(reference, side)
        checks += _at_timed_precision(side, precision, bounds)
    if "losses" in baseline.timed.groups and "losses" in arm.timed.groups:
        checks.append(_gap(baseline, arm))
    failed = [check for check in checks if not check.passed]
    errors = [check.value for check in checks if check.name.startswith("float64") and check.value is not None]
    return Certificate(
        status="failed" if failed else "passed",
        reason=_sentence(failed),
        max_rel_error=max(errors, default=None),
        checks=tuple(checks),
    )


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


def relative_error(a: Array, b: Array) -> float:
    """Normwise: max|a − b| / max|b|; infinite where shapes differ or a value is not finite."""
    if a.shape != b.shape or not np.isfinite(a).all() or not np.isfinite(b).all():
        return float("inf")
    scale = float(np.max(np.abs(b), initial=0.0))
    gap = float(np.max(np.abs(a - b), initial=0.0))
    return gap / scale if scale else gap


def _same_problem(reference: Trace, side: Side) -> list[Check]:
    counts = abs(side.float64.parameter_count - reference.parameter_count)
    same_bytes = side.float64.inputs_sha256 == side.timed.inputs_sha256 == reference.inputs_sha256
    return [
        Check(name="parameters", arm=side.arm, place="count", value=float(counts), limit=0.0, passed=counts == 0),
        Check(name="inputs", arm=side.arm, place="sha256", value=float(not same_bytes), limit=0.0, passed=same_bytes),
    ]


def _against_reference(reference: Trace, side: Side) -> list[Check]:
    return [
        _worst(f"float64 {group}", side.arm, side.float64.groups.get(group, {}), arrays, FLOAT64[group])
        for group, arrays in reference.groups.items()
    ]


def _at_timed_precision(side: Side, precision: str, bounds: Mapping[str, float]) -> list[Check]:
    """Outputs, gradients and the first losses, against the arm's own float64 trace: a wrong second step is seen too."""
    exact, timed = side.float64.groups, side.timed.groups
    checks = [
        _worst(f"{precision} {group}", side.arm, timed.get(group, {}), exact[group], bounds[group])
        for group in ("outputs", "gradients")
        if group in exact
    ]
    if "losses" in exact:
        place = f"first {GATED_STEPS} steps"
        first = {place: timed["losses"]["losses"][:GATED_STEPS]}
        truth = {place: exact["losses"]["losses"][:GATED_STEPS]}
        checks.append(_worst(f"{precision} losses", side.arm, first, truth, bounds["losses"]))
    return checks


def _worst(name: str, arm: str, found: Mapping[str, Array], truth: Mapping[str, Array], limit: float) -> Check:
    if set(found) != set(truth):
        return _check(name, arm, "names of arrays", float("inf"), limit)
    errors = {place: relative_error(found[place], truth[place]) for place in truth}
    place = max(errors, key=lambda key: errors[key])
    return _check(name, arm, place, errors[place], limit)


def _gap(baseline: Side, arm: Side) -> Check:
    """Over the first steps the arms may part by three times what float32 costs either of them, floor 8 ulp."""
    ours, theirs = (side.timed.groups["losses"]["losses"][:GATED_STEPS] for side in (baseline, arm))
    truth = baseline.float64.groups["losses"]["losses"][:GATED_STEPS]
    own = max(relative_error(ours, truth), relative_error(theirs, truth))
    limit = max(GAP_FACTOR * own, GAP_FLOOR_ULP * float(np.finfo(np.float32).eps))
    return _check("timed losses", arm.arm, f"first {GATED_STEPS} steps", relative_error(theirs, ours), limit)


def _check(name: str, arm: str, place: str, value: float, limit: float) -> Check:
    finite = bool(np.isfinite(value))
    return Check(
        name=name,
        arm=arm,
        place=place,
        value=value if finite else None,
        limit=limit if np.isfinite(limit) else 0.0,
        passed=finite and bool(np.isfinite(limit)) and value <= limit,
    )


def _sentence(failed: Sequence[Check]) -> str:
    if not failed:
        return ""
    worst = failed[0]
    if worst.name == "parameters":
        text = f"{worst.arm} has another number of parameters than the reference (off by {worst.value:.0f})"
    elif worst.name == "inputs":
        text = f"{worst.arm} was given other input bytes than the reference"
    else:
        found = "not finite or of another shape" if worst.value is None else f"{worst.value:.1e}"
        text = f"{worst.arm}: {worst.name} ({worst.place}) {found}, limit {worst.limit:.1e}"
    more = f", and {len(failed) - 1} more checks" if len(failed) > 1 else ""
    return text + more
