"""The report as one JSON document, from the run folder alone: cells, contrasts, verdicts and where they come from.

A number that was not measured is null with its reason in `nulls`; NaN and Infinity never appear.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench import stats
from bench.estimate import contrasts, figures, frames, names, soaks
from bench.estimate.contrasts import Comparison, Json
from bench.estimate.verdicts import Rules

if TYPE_CHECKING:
    import pandas as pd

    from bench.estimate.figures import Figure
    from bench.store import StoredRun

SCHEMA = "bench.report/1"


def summarise(run: StoredRun) -> Json:
    """The document that `bench report --format json` prints."""
    samples = frames.read(run)
    comparisons = _comparisons(run, samples)
    soaked = soaks.read(run)
    plain = run.run
    return {
        "schema": SCHEMA,
        "run": {
            "id": plain["id"],
            "started_at": plain["started_at"],
            "launcher": plain["launcher"],
            "commit": plain["commit"],
            "seed": plain["seed"],
            "schedule": plain["schedule"],
            "finished_at": plain.get("finished_at"),
            "matrix": plain.get("matrix", {}).get("name"),
            "cpus": plain["cpus"],
        },
        "environment": plain["environment"],
        "telemetry": _telemetry(plain["telemetry"], soaked),
        "cells": [_cell(one, arm, run, soaked) for one in comparisons for arm in one.entry["arms"]],
        "contrasts": contrasts.contrasts(comparisons, samples, run),
        "failures": [failure for one in comparisons for failure in _failures(one)],
        "notes": [*plain.get("notes", []), *_kept_proofs(comparisons)],
    }


def _kept_proofs(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Since when what was proved for an earlier run holds, where anything was."""
    certificates = [certificate for one in comparisons for certificate in one.certificates.values()]
    dates = sorted(str(one["made_at"])[:10] for one in certificates if one.get("kept"))
    if dates:
        when = f"on {dates[0]}" if dates[0] == dates[-1] else f"from {dates[0]} to {dates[-1]}"
        which = f"{len(dates)} of {len(certificates)} contrasts" if len(certificates) > 1 else "the contrast"
        yield (
            f"parity of {which} was proved {when}, for an earlier run on the same terms: code, environments, cells, "
            "seed, data, processor; bench run --recertify proves it anew"
        )


def exit_code(summary: Json) -> int:
    """3 when anything failed or is invalid, else 0."""
    broken = any(one["verdict"] in {"failed", "invalid"} for one in summary["contrasts"])
    return 3 if broken or summary["failures"] or any(cell["failed"] for cell in summary["cells"]) else 0


def _comparisons(run: StoredRun, samples: frames.Frames) -> list[Comparison]:
    entries: dict[str, Json] = run.run["comparisons"]
    family = sum(len(entry["arms"]) - 1 for entry in entries.values())
    budget = run.run.get("matrix", {}).get("budget", {})
    rules = Rules(family=family, target=budget.get("half_width", 0.01))
    return [
        Comparison(
            id=name,
            entry=entry,
            attempts=[record for record in run.blocks if record["comparison"] == name],
            certificates=run.certificates_of(name),
            trials=samples.trials[samples.trials["comparison"] == name],
            rules=rules,
            labels=names.arm_labels(entry["arms"], entry["compare"]),
        )
        for name, entry in entries.items()
    ]


def _telemetry(told: Json, soaked: soaks.Soaks) -> Json:
    """Where readings came from: a replay is never called hardware, whatever else was read."""
    sources = {told["source"], *soaked.sources}
    source = next(name for name in ("replay", "nvml", "none") if name in sources)
    return {"source": source, "hz": told["hz"], "refresh_s": soaked.refresh_s()}


def _cell(one: Comparison, arm: str, run: StoredRun, soaked: soaks.Soaks) -> Json:
    trials = frames.counting(one.trials, [arm])
    measured = one.outcomes(arm, "measured")
    failed = one.outcomes(arm, "failed")
    last = measured[-1] if measured else (failed or [{}])[-1]
    metrics, nulls = _metrics(trials)
    _add_soak(metrics, nulls, soaked.of.get((one.id, arm), []), len(trials), run.run["telemetry"]["source"])
    _add_cold(metrics, nulls, run.run["plans"].get(one.id, {}), arm)
    evaluation = _evaluation(one, arm)
    if evaluation is None:
        nulls["evaluation"] = "no parity certificate of this arm holds one"
    elif "failed" in evaluation:
        nulls["evaluation"], evaluation = f"{names.EVALUATION_FAILED}: {evaluation['failed']}", None
    return {
        "id": one.cell_id(arm),
        "comparison": one.id,
        "cell": one.entry["arms"][arm],
        "label": one.labels[arm],
        "versions": last.get("versions") or {},
        "image": last.get("image"),
        "blocks": len(trials),
        "failed": len(failed),
        "metrics": metrics,
        "nulls": nulls,
        "evaluation": evaluation,
    }


def _evaluation(one: Comparison, arm: str) -> Json | None:
    found = (certificate.get("evaluations") or {} for certificate in one.certificates.values())
    return next((evaluations[arm] for evaluations in found if evaluations.get(arm)), None)


def _metrics(trials: pd.DataFrame) -> tuple[Json, dict[str, str]]:
    """Medians over trials, figure by figure, and for every null its reason."""
    nulls: dict[str, str] = {}
    metrics: Json = {}
    for one in figures.FIGURES:
        if one.column is None:
            continue
        *way, last = one.place
        home = metrics
        for step in way:
            home = home.setdefault(step, {})
        home[last] = _median_and_interval(trials, one, nulls) if one.interval else _median(trials, one, nulls)
    return metrics, nulls


def _median(trials: pd.DataFrame, one: Figure, nulls: dict[str, str]) -> float | None:
    reported = trials[one.column].dropna()
    if one.null == "steps":
        figure = stats.cell_figure(trials[one.column].to_numpy())
        value = figure.median if figure else None
    else:
        value = one.kind(reported.median()) if len(reported) else None
    if value is None:
        q = str(one.column)
        told = "not reported by the worker" if len(trials) else "no whole block"
        nulls[".".join(one.place)] = _too_few_steps(trials, q) if one.null == "steps" else told
    return value


def _add_soak(metrics: Json, nulls: dict[str, str], own: list[soaks.Soak], blocks: int, source: str) -> None:
    """What the arm's soaks tell, and the two figures of it that stand among the others."""
    if not own:
        reason = soaks.unsoaked(blocks=blocks, source=source)
        for name in ("soak", *(one.name for one in figures.OF_SOAKS)):
            metrics[name], nulls[name] = None, reason
        return
    metrics["soak"], reasons = soaks.of_cell(own)
    nulls |= reasons
    for name in (one.name for one in figures.OF_SOAKS):
        metrics[name] = metrics["soak"][name]["median"]
        if metrics[name] is None:
            nulls[name] = reasons[f"soak.{name}"]


def _add_cold(metrics: Json, nulls: dict[str, str], plan: Json, arm: str) -> None:
    """Times of the arm's first process, which found nothing compiled: once a run, never a median."""
    cold = plan.get("cold", {}).get(arm)
    planned = arm in plan.get("cold", {})
    missing = "its first process found compiled code" if planned else "the run kept no plan with cold times"
    for name in ("build_s", "first_step_s"):
        metrics[f"cold_{name}"] = cold[name] if cold else None
        if not cold:
            nulls[f"cold_{name}"] = missing


def _median_and_interval(trials: pd.DataFrame, one: Figure, nulls: dict[str, str]) -> Json:
    figure, key = stats.cell_figure(trials[one.column].to_numpy()), ".".join(one.place)
    if figure is None:
        nulls[key] = "no samples of this kind in every block" if len(trials) else "no whole block"
        return {"median": None, "ci": None}
    if figure.ci is None:
        nulls[f"{key}.ci"] = f"{len(trials)} of the {stats.MIN_TRIALS} blocks that an exact interval takes"
    return {"median": figure.median, "ci": list(figure.ci) if figure.ci else None}


def _too_few_steps(trials: pd.DataFrame, q: str) -> str:
    fewest = trials["steps"].min() if len(trials) else math.nan
    if not math.isfinite(fewest):
        return "no steps were timed one by one"
    return f"{int(fewest)} of the {stats.MIN_STEPS[float(f'0.{q[1:]}')]} steps a trial that {q} takes"


def _failures(one: Comparison) -> Iterator[Json]:
    """Of workers in blocks; and of code that raised before the first one, whose block is null."""
    broken = {own["by"]: own for own in one.certificates.values() if own["status"] == "broken"}
    for side, own in broken.items():
        place = {"cell": one.cell_id(side), "block": None, "attempt": None}
        yield {**place, "kind": "failed", "reason": own["reason"], "log": own.get("log")}
    for record in one.attempts:
        for arm, outcome in record["arms"].items():
            if outcome["status"] == "failed":
                place = {"cell": one.cell_id(arm), "block": record["block"], "attempt": record["attempt"]}
                yield {**place, **{name: outcome.get(name) for name in ("kind", "reason", "log")}}
