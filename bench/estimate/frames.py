"""The run folder's raw samples as pandas frames: one row a round, one row a trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench import records, stats
from bench.estimate.figures import REPORTED
from bench.records import DECIDES, SYNC

if TYPE_CHECKING:
    from bench.store import StoredRun


_CHUNK = 128  # blocks read at once: some 50 MB
_KEY = ["comparison", "block", "attempt", "arm"]
_TURN = ["trial", "sync", "round"]
ROUND_COLUMNS = [*_KEY, "sync", "round", "step_ns", "cpu_ns"]
BY_SYNC = {sync: f"{sync}_step_ms" for sync in SYNC.values()}
TRIAL_FIGURES = ["step_ms", *BY_SYNC.values(), "p90", "p99", "steps", "items_per_s", "cpu_ms", "cpu_percent"]
OUTCOME_FIGURES = list(REPORTED)
_DECIDED = ("cpu_ms", "steps_per_s")  # figures of either sync, of which a row shows those of the one that decides


@dataclass(frozen=True, kw_only=True)
class Frames:
    """What the whole blocks of a run hold, every attempt: `counting` tells from which of them figures are taken.

    rounds  comparison, block, attempt, arm, sync, round, step_ns (of one step), cpu_ns (of one step)
    trials  comparison, block, attempt, arm, disturbed, then TRIAL_FIGURES and OUTCOME_FIGURES; NaN where not measured.
            step_ms and items_per_s are of the sync that decides (SYNC), percentiles of steps timed one by one;
            BY_SYNC's are of either sync and one statistic, the mean step of a round, so that they may be compared
    """

    rounds: pd.DataFrame
    trials: pd.DataFrame


def read(run: StoredRun) -> Frames:
    """The frames of a run: half a block, and one that was measured wrongly, are no part of them."""
    blocks = records.whole(run.blocks)
    cells = {name: entry["arms"] for name, entry in run.run["comparisons"].items()}
    columns = [*_KEY, "disturbed", "batch_size", "decides", *OUTCOME_FIGURES]
    trials = pd.DataFrame(_outcomes(blocks, cells), columns=columns)
    numbers = {key: number for number, key in enumerate(_keys(trials))}
    rounds, figures = [], []
    for start in range(0, len(blocks), _CHUNK):
        samples = _samples(run, blocks[start : start + _CHUNK], numbers)
        if samples is not None:
            turns = _turns(samples)
            rounds.append(turns)
            figures.append(_figures(samples, turns))
    trials = _with_figures(trials, figures)
    return Frames(rounds=_named(rounds, trials), trials=trials)


def counting(trials: pd.DataFrame, arms: Sequence[str], *, every_attempt: bool = False) -> pd.DataFrame:
    """The trials of these arms in the attempts that hold all of them and count.

    trials         of one comparison
    every_attempt  the disturbed ones too; else the rule of `records.counting`
    """
    own = trials[trials["arm"].isin(arms)]
    own = own[own.groupby(["block", "attempt"])["arm"].transform("size") == len(set(arms))]
    undisturbed = own[~own["disturbed"].astype(bool)]
    enough = len(undisturbed) >= records.ENOUGH_UNDISTURBED * len(set(arms))
    return undisturbed if enough and not every_attempt else own


def round_log_ratios(
    frames: Frames,
    comparison: str,
    *,
    baseline: str,
    arm: str,
    sync: str,
    column: str = "step_ns",
    every_attempt: bool = False,
) -> list[stats.Numbers]:
    """log(t_baseline / t_arm), one array of rounds in order of time for each block that holds both arms and counts.

    every_attempt  the disturbed ones too
    """
    rows = frames.rounds
    rows = rows[rows["comparison"] == comparison]  # first, and alone: a run holds very many rounds
    rows = rows[(rows["sync"] == sync) & rows["arm"].isin([baseline, arm])]
    trials = frames.trials[frames.trials["comparison"] == comparison]
    counted = counting(trials, [baseline, arm], every_attempt=every_attempt)
    places = pd.MultiIndex.from_frame(counted[["block", "attempt"]].drop_duplicates())
    rows = rows[pd.MultiIndex.from_frame(rows[["block", "attempt"]]).isin(places)]
    if rows.empty:
        return []
    wide = rows.pivot(index=["block", "attempt", "round"], columns="arm", values=column).sort_index()
    if baseline not in wide or arm not in wide:
        return []
    wide = wide[[baseline, arm]].dropna()
    ratios = stats.log_ratios(wide[baseline].to_numpy(), wide[arm].to_numpy())
    starts = np.flatnonzero(~wide.index.to_frame()[["block", "attempt"]].duplicated().to_numpy())
    return list(np.split(ratios, starts[1:])) if len(ratios) else []


def _outcomes(
    blocks: Sequence[Mapping[str, Any]], cells: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """One row a measured arm; `decides` is the kind of slice that its metric is taken from."""
    for record in blocks:
        measured = records.measured(record)
        for arm, outcome in record["arms"].items():
            if arm in measured:
                cell = cells[record["comparison"]][arm]
                key = {**{name: record[name] for name in _KEY[:-1]}, "arm": arm}
                how = {
                    "disturbed": bool(records.disturbances(record["spoiled"])),
                    "decides": SYNC[DECIDES[cell["phase"]]],
                }
                yield {
                    **key,
                    **how,
                    "batch_size": cell["batch_size"],
                    **{name: outcome.get(name) for name in OUTCOME_FIGURES},
                }


def _keys(trials: pd.DataFrame) -> list[tuple[str, int, int, str]]:
    return list(zip(*(trials[name] for name in _KEY), strict=True))


def _samples(
    run: StoredRun, blocks: Sequence[Mapping[str, Any]], numbers: Mapping[tuple[str, int, int, str], int]
) -> pd.DataFrame | None:
    """Raw rows of these blocks with the number of their trial; None where there is no row."""
    parts = [(record, steps) for record in blocks if not (steps := run.steps(record)).empty]
    if not parts:
        return None
    places = np.repeat(np.arange(len(parts)), [len(steps) for _, steps in parts])
    known = {
        (place, arm): numbers.get((record["comparison"], record["block"], record["attempt"], arm))
        for place, (record, _) in enumerate(parts)
        for arm in record["arms"]
    }
    samples = pd.concat([steps for _, steps in parts], ignore_index=True)
    rows = pd.MultiIndex.from_arrays([places, samples["arm"]])
    samples["trial"] = pd.Series(known, dtype=float).reindex(rows).to_numpy()
    samples = samples.dropna(subset=["trial"]).drop(columns=["arm", "position"])
    return None if samples.empty else samples.astype({"trial": "int64"})


def _turns(samples: pd.DataFrame) -> pd.DataFrame:
    """One row a trial, sync and round: the wall and CPU time of a step; settling rows excluded.

    step_ns is what decides: of a slice total ÷ n, of steps timed one by one the median. mean_ns is total ÷ n of either:
    what comes every dozenth step, as Python's collection of garbage does, is in every mean and in no median. cpu_ns
    belongs to the whole stretch from start_ns to end_ns and is divided by all steps in it.
    """
    measured = samples[~samples["settling"]]
    groups = measured.groupby(_TURN)
    totals = groups[["time_ns", "steps"]].sum()
    turns = pd.DataFrame({"mean_ns": totals["time_ns"] / totals["steps"], "median_ns": groups["time_ns"].median()})
    stretches = samples.groupby([*_TURN, "start_ns"]).agg(
        cpu_ns=("cpu_ns", "first"), end_ns=("end_ns", "first"), steps=("steps", "sum"), settling=("settling", "all")
    )
    stretches["wall_ns"] = stretches["end_ns"] - stretches.index.get_level_values("start_ns")
    stretches = stretches[~stretches["settling"]]
    spent = stretches.groupby(level=_TURN)[["cpu_ns", "wall_ns", "steps"]].sum()
    turns = turns.join(spent).reset_index()
    turns["step_ns"] = turns["mean_ns"].where(turns["sync"] == "slice", turns["median_ns"])
    return turns.drop(columns=["median_ns"])


def _figures(samples: pd.DataFrame, turns: pd.DataFrame) -> pd.DataFrame:
    """One row a trial: its own medians, percentiles and rates by sync, in ms and steps."""
    measured = samples[~samples["settling"]]
    singles = measured[measured["sync"] == "step"].groupby("trial")["time_ns"]
    totals = measured.groupby(["trial", "sync"])[["time_ns", "steps"]].sum()
    means = turns.groupby(["trial", "sync"])["mean_ns"].median()
    spent = turns.groupby(["trial", "sync"])[["cpu_ns", "wall_ns", "steps"]].sum()
    figures = pd.DataFrame(
        {
            "latency_ms": singles.median() / 1e6,
            "steps": singles.size(),
            "p90": _percentile_ms(singles, 0.9),
            "p99": _percentile_ms(singles, 0.99),
        },
        index=pd.Index(sorted(turns["trial"].unique()), name="trial"),
    )
    for sync in SYNC.values():
        if sync in spent.index.get_level_values("sync"):
            own, total = spent.xs(sync, level="sync"), totals.xs(sync, level="sync")
            figures[BY_SYNC[sync]] = means.xs(sync, level="sync") / 1e6
            figures[f"cpu_ms_{sync}"] = own["cpu_ns"] / own["steps"] / 1e6
            figures[f"steps_per_s_{sync}"] = total["steps"] / (total["time_ns"] / 1e9).where(total["time_ns"] > 0)
    whole = spent.groupby(level="trial").sum()
    figures["cpu_percent"] = 100 * whole["cpu_ns"] / whole["wall_ns"].where(whole["wall_ns"] > 0)
    return figures


def _percentile_ms(steps: Any, q: float) -> pd.Series[float]:
    values = {trial: stats.percentile(times.to_numpy(), q) for trial, times in steps}
    return pd.Series(values, dtype=float) / 1e6


def _with_figures(trials: pd.DataFrame, figures: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The trials with their figures; step time, throughput and CPU time of a step are of the slices that decide."""
    by_sync = {name: {sync: f"{name}_{sync}" for sync in BY_SYNC} for name in _DECIDED}
    by_sync["step_ms"] = {"slice": BY_SYNC["slice"], "step": "latency_ms"}
    own = dict.fromkeys([*TRIAL_FIGURES, *(column for columns in by_sync.values() for column in columns.values())])
    measured = pd.concat(figures) if figures else pd.DataFrame(index=trials.index[:0])
    joined = trials.join(
        measured.reindex(columns=list(own)).astype(float).drop(columns=["step_ms", "cpu_ms", "items_per_s"])
    )
    for name, columns in by_sync.items():
        joined[name] = joined[columns["slice"]].where(joined["decides"] == "slice", joined[columns["step"]])
    joined["items_per_s"] = joined["steps_per_s"] * joined["batch_size"].astype(float)
    numbers = [*TRIAL_FIGURES, *OUTCOME_FIGURES]
    return joined[[*_KEY, "disturbed", *numbers]].astype(dict.fromkeys(numbers, float))


def _named(rounds: Sequence[pd.DataFrame], trials: pd.DataFrame) -> pd.DataFrame:
    """Rounds with the names of their trial instead of its number; cpu_ns of one step."""
    if not rounds:
        return pd.DataFrame(columns=ROUND_COLUMNS)
    rows = pd.concat(rounds, ignore_index=True).join(trials[_KEY], on="trial")
    rows["cpu_ns"] = rows["cpu_ns"] / rows["steps"]
    return rows[ROUND_COLUMNS]
