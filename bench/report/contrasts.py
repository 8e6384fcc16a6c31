"""Contrasts: the pairs of every comparison with ratio, interval and verdict, or with the reason why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench import gates, stats
from bench.parity import LEFT_OUT, REFERENCE
from bench.report import frames, words
from bench.report.confounders import confounders
from workloads.contract import STUB

if TYPE_CHECKING:
    import pandas as pd

    from bench.store import StoredRun

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One comparison with everything stored about it."""

    id: str
    entry: Json
    attempts: list[Json]
    certificates: dict[str, Json]
    trials: pd.DataFrame
    rules: stats.Rules
    labels: dict[str, str]

    @property
    def baseline(self) -> str:
        """The id of the arm that ratios are taken against."""
        return str(self.entry["baseline"])

    def cell_id(self, arm: str) -> str:
        """Unique in the run, where an arm's own id is unique in its comparison."""
        return f"{self.id}/{arm}"

    def outcomes(self, arm: str, status: str) -> list[Json]:
        """The outcomes of an arm that ended so, over every attempt."""
        found = (record["arms"].get(arm, {}) for record in self.attempts)
        return [outcome for outcome in found if outcome.get("status") == status]


def contrasts(comparisons: Sequence[Comparison], samples: frames.Frames, run: StoredRun) -> list[Json]:
    """All contrasts: estimated one by one, then judged together, since Holm takes the family."""
    pairs = [(one, arm) for one in comparisons for arm in one.entry["arms"] if arm != one.baseline]
    barred = [_barred(one, arm) for one, arm in pairs]
    estimates = [
        stats.Contrast(blocks=_valid_blocks(one, arm)) if bar else _estimate(one, arm, samples)
        for (one, arm), bar in zip(pairs, barred, strict=True)
    ]
    corrected = stats.holm([estimate.p for estimate in estimates])
    found = []
    for (one, arm), bar, estimate, p_holm in zip(pairs, barred, estimates, corrected, strict=True):
        moved = stats.Drift() if bar else stats.drift(_rounds(one, arm, samples))
        rules = replace(one.rules, names=(one.labels[one.baseline], one.labels[arm]))
        verdict = bar or stats.judge(estimate, p_holm=p_holm, moved=moved, rules=rules)
        found.append(
            {
                **_contrast(one, arm, estimate, p_holm=p_holm, verdict=verdict),
                "confounders": _confounders(one, arm, run),
                "cpu_ratio": None if bar else _cpu_ratio(one, arm, samples),
            }
        )
    return found


def _contrast(
    one: Comparison,
    arm: str,
    estimate: stats.Contrast,
    *,
    p_holm: float | None,
    verdict: stats.Verdict,
) -> Json:
    return {
        "id": f"{one.cell_id(arm)}-vs-{one.baseline}",
        "comparison": one.id,
        "baseline": one.cell_id(one.baseline),
        "arm": one.cell_id(arm),
        "metric": _metric(one),
        "ratio": estimate.ratio,
        "ci": list(estimate.ci) if estimate.ci else None,
        "half_width": estimate.half_width,
        "p": estimate.p,
        "p_holm": p_holm,
        "blocks": estimate.blocks,
        "blocks_repeated": _spoiled(one),
        "repeated_because": _cause(one),
        "verdict": verdict.word,
        "reason": verdict.reason,
        "parity": _parity(one, arm),
    }


def _metric(one: Comparison) -> str:
    return frames.DECIDES[one.entry["arms"][one.baseline]["phase"]]


def _rounds(one: Comparison, arm: str, samples: frames.Frames, column: str = "step_ns") -> list[stats.Numbers]:
    sync = frames.SYNC[_metric(one)]
    return frames.round_log_ratios(samples, one.id, baseline=one.baseline, arm=arm, sync=sync, column=column)


def _estimate(one: Comparison, arm: str, samples: frames.Frames, column: str = "step_ns") -> stats.Contrast:
    return stats.contrast([stats.block_log_ratio(rounds) for rounds in _rounds(one, arm, samples, column)])


def _cpu_ratio(one: Comparison, arm: str, samples: frames.Frames) -> Json | None:
    estimate = _estimate(one, arm, samples, "cpu_ns")
    return {"ratio": estimate.ratio, "ci": list(estimate.ci) if estimate.ci else None} if estimate.ratio else None


def _valid_blocks(one: Comparison, arm: str) -> int:
    counted = Counter(one.trials.loc[one.trials["arm"].isin([one.baseline, arm]), "block"])
    return sum(1 for count in counted.values() if count == 2)


def _spoiled(one: Comparison) -> int:
    return sum(1 for record in one.attempts if record["spoiled"])


def _cause(one: Comparison) -> str | None:
    """What spoiled most blocks; None where nothing spoiled one."""
    causes = Counter(cause for record in one.attempts for cause in {*map(gates.cause, record["spoiled"])})
    return min(causes, key=lambda cause: (-causes[cause], cause), default=None)


def _barred(one: Comparison, arm: str) -> stats.Verdict | None:
    """Why this contrast has no ratio: parity, gates, or too little that was measured."""
    certificate = one.certificates.get(arm)
    if certificate and (refused := _refused(one, certificate)):
        return refused
    if _valid_blocks(one, arm) < 2:
        for word in ("unsupported", "failed"):
            if reason := _ended(one, arm, word):
                return stats.Verdict(word=word, reason=reason)
    spoiled, attempts = _spoiled(one), len(one.attempts)
    if spoiled > stats.SPOILED_SHARE * attempts:
        cause = _cause(one)
        told = (reason for record in one.attempts for reason in record["spoiled"] if gates.cause(reason) == cause)
        such = words.clean(next(told))
        return stats.Verdict(word="invalid", reason=f"{spoiled} of {attempts} blocks were spoiled, mostly by {such}")
    if certificate and _may_be_measured(one, arm, certificate):
        return None
    return _uncertified(one, arm, certificate)


def _uncertified(one: Comparison, arm: str, certificate: Json | None) -> stats.Verdict:
    """No certificate: measured all the same, or not measured yet, which is no fault of the contrast."""
    reason = words.clean(certificate["reason"]) if certificate and certificate["reason"] else "parity was not checked"
    if one.outcomes(arm, "measured"):
        return stats.Verdict(word="invalid", reason=f"no certificate: {reason}")
    stopped = one.outcomes(arm, "stopped")
    return stats.Verdict(word="inconclusive", reason=f"not measured: {stopped[-1]['reason'] if stopped else reason}")


def _may_be_measured(one: Comparison, arm: str, certificate: Json) -> bool:
    """Proved to be the same work; or a stub, whose work differs on purpose."""
    stub = one.entry["arms"][arm]["workload"]["name"] == STUB
    return bool(certificate["status"] == "passed" or (stub and certificate["status"] == "skipped"))


def _refused(one: Comparison, certificate: Json) -> stats.Verdict | None:
    """Another work was done; or nothing was proved, because a side or the reference could not, or failed."""
    if certificate["status"] == "failed":
        return stats.Verdict(word="invalid", reason=f"parity failed: {words.clean(certificate['reason'])}")
    if certificate["status"] in LEFT_OUT:
        word = "failed" if certificate["status"] == "broken" else "unsupported"
        return stats.Verdict(word=word, reason=_told(one, certificate["by"], certificate["reason"]))
    return None


def _ended(one: Comparison, arm: str, status: str) -> str | None:
    """The last worker's own reason, of this contrast's sides or the reference: another arm's takes nobody with it."""
    for side in (arm, one.baseline, REFERENCE):
        outcomes = one.outcomes(side, status)
        if outcomes:
            return _told(one, side, outcomes[-1].get("reason") or status)
    return None


def _told(one: Comparison, side: str, reason: str) -> str:
    """What a worker said, under the name that readers know its arm by."""
    label = "the reference" if side == REFERENCE else one.labels[side]
    return f"{label}: {words.clean(reason.removeprefix(f'{side}: '))}"


def _parity(one: Comparison, arm: str) -> Json:
    certificate = one.certificates.get(arm)
    if certificate is None:
        return {"status": "skipped", "max_rel_error": None, "reason": "no certificate in this run"}
    status = "skipped" if certificate["status"] in LEFT_OUT else certificate["status"]
    return {"status": status, **{name: certificate.get(name) for name in ("max_rel_error", "reason")}}


def _confounders(one: Comparison, arm: str, run: StoredRun) -> list[str]:
    sides = (one.baseline, arm)
    left, right = (one.entry["arms"][side] for side in sides)
    before, after = ((one.outcomes(side, "measured") or [{}])[-1] for side in sides)
    return confounders(run, one.entry["compare"], (left, right), (before, after))
