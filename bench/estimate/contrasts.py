"""Contrasts: the pairs of every comparison with ratio, interval and verdict, or with the reason why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench import records, stats, text
from bench.estimate import frames, verdicts
from bench.estimate.confounders import confounders
from bench.estimate.course import Course
from bench.estimate.verdicts import Corrected, Disturbance, Evidence, Rules, Verdict
from bench.planning.slices import OTHER_SYNC_EVERY
from bench.records import LEFT_OUT, REFERENCE
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
    rules: Rules
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
    evidence = [
        Evidence(estimate=stats.Contrast(blocks=_blocks(one, arm))) if bar else _evidence(one, arm, samples)
        for (one, arm), bar in zip(pairs, barred, strict=True)
    ]
    corrected = verdicts.correct([found.estimate for found in evidence])
    family = sum(p.p is not None for p in corrected)
    found = []
    for (one, arm), bar, own, p in zip(pairs, barred, evidence, corrected, strict=True):
        rules = replace(one.rules, family=family, names=(one.labels[one.baseline], one.labels[arm]))
        if why := _no_more(one, arm):
            rules = replace(rules, remedy=why)
        verdict = bar or verdicts.judge(own, corrected=p, rules=rules)
        found.append(
            {
                **_contrast(one, arm, own.estimate, p=p, verdict=verdict),
                "confounders": _confounders(one, arm, run),
                "cpu_ratio": None if bar else _ratio(_estimate(one, arm, samples, column="cpu_ns")),
            }
        )
    return found


def _contrast(one: Comparison, arm: str, estimate: stats.Contrast, *, p: Corrected, verdict: Verdict) -> Json:
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
        "p_holm": p.p,
        "p_t_holm": p.p_t,
        "p_equal_holm": p.p_equal,
        "blocks": estimate.blocks,
        "blocks_repeated": len(_spoiled(one, arm)),
        "repeated_because": _cause([reason for record in _spoiled(one, arm) for reason in record["spoiled"]]),
        "sides": {side: _figures(one, arm, name) for side, name in (("baseline", one.baseline), ("arm", arm))},
        "verdict": verdict.word,
        "reason": verdict.reason,
        "caveats": [caveat.to_json() for caveat in verdict.caveats],
        "parity": _parity(one, arm),
    }


def _evidence(one: Comparison, arm: str, samples: frames.Frames) -> Evidence:
    """What the blocks that count say, how they went, and what every attempt says where one was disturbed."""
    rounds = _rounds(one, arm, samples)
    return Evidence(
        estimate=stats.contrast([stats.block_log_ratio(block) for block in rounds]),
        drift=stats.drift(rounds),
        course=Course.of(rounds, warm_up=_warm_up(one, arm)),
        disturbance=_disturbance(one, arm, samples),
    )


def _disturbance(one: Comparison, arm: str, samples: frames.Frames) -> Disturbance | None:
    found = [reasons for record in _holding(one, arm) if (reasons := records.disturbances(record["spoiled"]))]
    if not found:
        return None
    cells = [one.entry["arms"][side] for side in (one.baseline, arm)]
    is_time = all(cell["device"] != "cuda" and cell["threads"] == 1 for cell in cells)
    return Disturbance(
        disturbed=len(found),
        cause=_cause([reason for reasons in found for reason in reasons]) or "",
        every=_estimate(one, arm, samples, every_attempt=True),
        cpu=_estimate(one, arm, samples, column="cpu_ns", every_attempt=True) if is_time else None,
    )


def _warm_up(one: Comparison, arm: str) -> float:
    """The longer warm-up of the two, in lengths of what was measured of it in a block; 0 where no plan tells."""
    longest = 0.0
    for record in _holding(one, arm):
        for side in (one.baseline, arm):
            outcome = record["arms"][side]
            slices = record.get("rounds", 0) * (1 + 1 / OTHER_SYNC_EVERY)
            steps = slices * (outcome.get("slice_steps", 0) + outcome.get("settle_steps", 0))
            longest = max(longest, outcome.get("warm_steps", 0) / steps if steps else 0.0)
    return longest


def _figures(one: Comparison, arm: str, side: str) -> Json:
    """A side's step time and throughput in the very blocks that the ratio is of: medians with their intervals."""
    counted = frames.counting(one.trials, [one.baseline, arm])
    own = counted[counted["arm"] == side]
    return {name: _figure(stats.cell_figure(own[name].to_numpy())) for name in ("step_ms", "items_per_s")}


def _figure(found: stats.Figure | None) -> Json:
    if found is None:
        return {"median": None, "ci": None}
    return {"median": found.median, "ci": list(found.ci) if found.ci else None}


def _no_more(one: Comparison, arm: str) -> str | None:
    """Why no more blocks will be measured: an arm that was left out midway."""
    left_out = records.left_out(one.attempts)
    return next((left_out[side] for side in (arm, one.baseline) if side in left_out), None)


def _metric(one: Comparison) -> str:
    return records.DECIDES[one.entry["arms"][one.baseline]["phase"]]


def _rounds(
    one: Comparison, arm: str, samples: frames.Frames, *, column: str = "step_ns", every_attempt: bool = False
) -> list[stats.Numbers]:
    how = {"sync": records.SYNC[_metric(one)], "column": column}
    return frames.round_log_ratios(samples, one.id, baseline=one.baseline, arm=arm, every_attempt=every_attempt, **how)


def _estimate(one: Comparison, arm: str, samples: frames.Frames, **which: Any) -> stats.Contrast:
    return stats.contrast([stats.block_log_ratio(rounds) for rounds in _rounds(one, arm, samples, **which)])


def _ratio(estimate: stats.Contrast) -> Json | None:
    return {"ratio": estimate.ratio, "ci": list(estimate.ci) if estimate.ci else None} if estimate.ratio else None


def _blocks(one: Comparison, arm: str) -> int:
    """Those that count and hold both arms."""
    return len(frames.counting(one.trials, [one.baseline, arm])) // 2


def _holding(one: Comparison, arm: str) -> list[records.Record]:
    """The whole attempts in which both arms were measured."""
    return [record for record in records.whole(one.attempts) if {one.baseline, arm} <= records.measured(record)]


def _spoiled(one: Comparison, arm: str) -> list[Json]:
    """The attempts of both arms that a gate spoiled, whatever it found."""
    ends = (
        (record, [record["arms"].get(side, {}).get("status") for side in (one.baseline, arm)])
        for record in one.attempts
    )
    return [record for record, statuses in ends if record["spoiled"] and statuses == ["measured", "measured"]]


def _cause(reasons: Sequence[str]) -> str | None:
    """What most of these say; None of none."""
    causes = Counter(map(records.cause, reasons))
    return min(causes, key=lambda cause: (-causes[cause], cause), default=None)


def _faulty(one: Comparison, arm: str) -> Verdict | None:
    """How a side was measured wrongly, where too few other blocks are left."""
    found = [wrong for record in one.attempts if (wrong := records.faulty(record["spoiled"], [arm, one.baseline]))]
    if not found:
        return None
    sentence = text.clean(next(iter(found[-1].values())))
    return Verdict(word="invalid", reason=f"{len(found)} of {len(one.attempts)} blocks cannot count: {sentence}")


def _barred(one: Comparison, arm: str) -> Verdict | None:
    """Why this contrast has no ratio: parity, or too little that was measured."""
    certificate = one.certificates.get(arm)
    if certificate and (refused := _refused(one, certificate) or _other_work(one, arm)):
        return refused
    if _blocks(one, arm) < 2:
        for word in ("unsupported", "failed"):
            if reason := _ended(one, arm, word):
                return Verdict(word=word, reason=reason)
        if wrong := _faulty(one, arm):
            return wrong
    if certificate and _may_be_measured(one, arm, certificate):
        return None
    return _uncertified(one, arm, certificate)


def _uncertified(one: Comparison, arm: str, certificate: Json | None) -> Verdict:
    """No certificate: measured all the same, or not measured yet, which is no fault of the contrast."""
    reason = text.clean(certificate["reason"]) if certificate and certificate["reason"] else "parity was not checked"
    if one.outcomes(arm, "measured"):
        return Verdict(word="invalid", reason=f"no certificate: {reason}")
    stopped = one.outcomes(arm, "stopped")
    return Verdict(word="inconclusive", reason=f"not measured: {stopped[-1]['reason'] if stopped else reason}")


def _may_be_measured(one: Comparison, arm: str, certificate: Json) -> bool:
    """Proved to be the same work; or a stub, whose work differs on purpose."""
    stub = one.entry["arms"][arm]["workload"]["name"] == STUB
    return bool(certificate["status"] == "passed" or (stub and certificate["status"] == "skipped"))


def _refused(one: Comparison, certificate: Json) -> Verdict | None:
    """Another work was done; or nothing was proved, because a side or the reference could not, or failed."""
    if certificate["status"] == "failed":
        return Verdict(word="invalid", reason=f"parity failed: {text.clean(certificate['reason'])}")
    if certificate["status"] in LEFT_OUT:
        word = "failed" if certificate["status"] == "broken" else "unsupported"
        return Verdict(word=word, reason=_told(one, certificate["by"], certificate["reason"]))
    return None


def _other_work(one: Comparison, arm: str) -> Verdict | None:
    """A side whose timed program, after its last slice, did not go on as the rule says."""
    for side in (arm, one.baseline):
        for outcome in one.outcomes(side, "measured"):
            closing = outcome.get("closing")
            if closing and closing["reason"]:
                return Verdict(
                    word="invalid", reason=f"parity failed after the last slice: {text.clean(closing['reason'])}"
                )
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
    return f"{label}: {text.clean(reason.removeprefix(f'{side}: '))}"


_TOLD = ("max_rel_error", "reason", "horizon", "made_at", "kept")  # of a certificate


def _parity(one: Comparison, arm: str) -> Json:
    certificate = one.certificates.get(arm)
    if certificate is None:
        return {"status": "skipped", **dict.fromkeys(_TOLD), "reason": "no certificate in this run"}
    status = "skipped" if certificate["status"] in LEFT_OUT else certificate["status"]
    return {"status": status, **{name: certificate.get(name) for name in _TOLD}}


def _confounders(one: Comparison, arm: str, run: StoredRun) -> list[str]:
    sides = (one.baseline, arm)
    left, right = (one.entry["arms"][side] for side in sides)
    before, after = ((one.outcomes(side, "measured") or [{}])[-1] for side in sides)
    return confounders(run, one.entry["compare"], (left, right), (before, after))
