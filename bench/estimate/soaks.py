"""What the soaks of a run tell: utilization, power and energy of every arm, a figure a block, with the reason of nulls.

A slice is over before NVML's figures move, so that these come from the seconds for which each arm runs on in every
block. They are no part of a ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench import records as stored
from bench import stats, telemetry
from bench.errors import InputError
from bench.telemetry.gpu_reading import Reading
from bench.telemetry.windows import UNREAD, Track, Unresolved

if TYPE_CHECKING:
    from bench.store import StoredRun

Json = dict[str, Any]

# Figure to the GPU's column and the factor to its unit; then how it is taken from its track in the soak.
_LEVEL, _HIGHEST, _FIRST = (getattr(Track, name) for name in ("level", "highest", "first"))
_OF_GPU: dict[str, tuple[str, float, Callable[..., float]]] = {
    "gpu_util_percent": ("gpu_util_percent", 1.0, _LEVEL),
    "power_w": ("power_mw", 1e-3, _LEVEL),
    "sm_clock_mhz": ("sm_clock_mhz", 1.0, _LEVEL),
    "gpu_memory_used_bytes": ("gpu_memory_used_bytes", 1.0, _HIGHEST),
    "start_temperature_c": ("temperature_c", 1.0, _FIRST),
}
_POWER_AVERAGE = "power_average_mw"  # where the driver has it, it is what it says
_BETWEEN_LOOKS_NS = 1_000_000_000  # so often is asked who computes
_OF_ENERGY = ("power_by_energy_w", "joules_per_item", "energy_uncertainty")
FIGURES = (*_OF_GPU, "gpu_memory_arm_bytes", *_OF_ENERGY, *(f"cpu_{name}" for name in _OF_ENERGY))


@dataclass
class Soak:
    """One arm's soak in one block.

    figures  of FIGURES, those that were measured
    nulls    why the others were not
    power_is what power_w is
    """

    figures: dict[str, float] = field(default_factory=dict)
    nulls: dict[str, str] = field(default_factory=dict)
    power_is: str | None = None


@dataclass
class Soaks:
    """All of a run's blocks that count.

    of        comparison and arm to its soaks, one a block
    sources   where the blocks' GPU readings came from
    refresh   GPU and field to how often it moved in each block, s; None where it did not
    """

    of: dict[tuple[str, str], list[Soak]] = field(default_factory=dict)
    sources: set[str] = field(default_factory=set)
    refresh: dict[tuple[str, str], list[float | None]] = field(default_factory=dict)

    def refresh_s(self) -> dict[str, dict[str, float | None]]:
        """GPU and field to how often it moved, the median over blocks; null: it was read and never seen to move."""
        found: dict[str, dict[str, float | None]] = {}
        for (gpu, name), values in self.refresh.items():
            known = [value for value in values if value is not None]
            found.setdefault(gpu, {})[name] = round(float(pd.Series(known).median()), 4) if known else None
        return found


def read(run: StoredRun) -> Soaks:
    """The soaks of a run; blocks without one are not opened."""
    found = Soaks()
    for record in _counting(run):
        path = run.telemetry(record)
        soaked = {arm: one["soak"] for arm, one in record["arms"].items() if one.get("soak")}
        if not soaked:
            continue
        try:
            block = _Block(path) if path else None
            why = "the readings of its block were not kept"
        except InputError as damaged:
            block, why = None, f"the readings of its block cannot be read: {damaged}"
        if block is None:
            for arm in soaked:
                found.of.setdefault((record["comparison"], arm), []).append(Soak(nulls=dict.fromkeys(FIGURES, why)))
            continue
        found.sources.add(block.meta["source"])
        for gpu, name, track in block.gpu_tracks(soaked.values()):
            found.refresh.setdefault((gpu, name), []).append(track.refresh_s())
        arms = run.run["comparisons"][record["comparison"]]["arms"]
        for arm, soak in soaked.items():
            one = _soak(block, soak, arm, arms[arm], record["arms"][arm]["gpu"])
            found.of.setdefault((record["comparison"], arm), []).append(one)
    return found


def _counting(run: StoredRun) -> list[Mapping[str, Any]]:
    """Comparison by comparison."""
    whole = stored.whole(run.blocks)
    own = ([record for record in whole if record["comparison"] == name] for name in run.run["comparisons"])
    return [record for records in own for record in stored.counting(records)]


class _Block:
    """A block's readings."""

    def __init__(self, path: Any) -> None:
        self.meta = telemetry.meta(path)
        self._rows = telemetry.readings(path)

    def track(self, column: str, factor: float = 1.0, *, gpu: str | None = None, arm: str | None = None) -> Track:
        """A column of a GPU's readings, of what an arm has of one, or (neither) of the processors' energy."""
        rows = self._rows
        rows = rows[rows["gpu"].isna() if gpu is None else rows["gpu"] == gpu]
        rows = rows[rows["arm"].isna() if arm is None else rows["arm"] == arm]
        known = rows[["t_ns", column]].dropna() if column in rows else rows.iloc[:0].reindex(columns=["t_ns", column])
        return Track(known["t_ns"].to_numpy(dtype="int64"), known[column].to_numpy(dtype=float) * factor)

    def why(self, column: str, gpu: str | None) -> str:
        """Why nothing of it was read."""
        nulls, name = self.meta["nulls"], column if gpu is None else f"{gpu}.{column}"
        return str(nulls.get(name) or nulls.get(column) or nulls.get("gpus") or UNREAD)

    def others(self, gpu: str, soak: Json) -> str | None:
        """Somebody else's program that was on the GPU during a soak; None where there was none."""
        for pid, one in self.meta.get("foreign", {}).get(gpu, {}).items():
            if one["first_ns"] <= soak["end_ns"] and one["last_ns"] >= soak["start_ns"] - _BETWEEN_LOOKS_NS:
                return f"another program was on the GPU: {one['name']} (process {pid})"
        return None

    def gpu_tracks(self, soaks: Iterable[Json]) -> Iterable[tuple[str, str, Track]]:
        """Every field of every GPU while any arm soaked, which is when it was read most often."""
        times = self._rows["t_ns"]
        inside = pd.concat([times.between(soak["start_ns"], soak["end_ns"]) for soak in soaks], axis=1).any(axis=1)
        for gpu in self._rows["gpu"].dropna().unique():
            rows = self._rows[inside & (self._rows["gpu"] == gpu) & self._rows["arm"].isna()]
            for name in (one for one in Reading._fields if one in rows):
                known = rows[["t_ns", name]].dropna()
                if len(known):
                    yield gpu, name, Track(known["t_ns"].to_numpy(dtype="int64"), known[name].to_numpy(dtype=float))


def _soak(block: _Block, soak: Json, arm: str, cell: Mapping[str, Any], seen: Mapping[str, Any] | None) -> Soak:
    found = Soak()
    items = soak["steps"] * cell["batch_size"]
    gpu, why = _gpu(block.meta, cell, seen)
    _energy(found, "cpu_", block.track("package_energy_uj", 1e-6), soak, items, block.why("package_energy_uj", None))
    if gpu is None:
        found.nulls |= dict.fromkeys((*_OF_GPU, "gpu_memory_arm_bytes", *_OF_ENERGY), why)
        return found
    if other := block.others(gpu, soak):
        found.nulls |= dict.fromkeys((*_OF_GPU, "gpu_memory_arm_bytes", *_OF_ENERGY), other)
        return found
    power_column, power_is = _power_column(block, gpu)
    for name, (usual, factor, take) in _OF_GPU.items():
        column = power_column if name == "power_w" else usual
        _figure(found, name, block.track(column, factor, gpu=gpu), take, soak, block.why(column, gpu))
    found.power_is = power_is if "power_w" in found.figures else None
    memory, unknown = block.track("arm_memory_bytes", gpu=gpu, arm=arm), block.why("programs", gpu)
    _figure(found, "gpu_memory_arm_bytes", memory, _HIGHEST, soak, unknown)
    _energy(found, "", block.track("energy_mj", 1e-3, gpu=gpu), soak, items, block.why("energy_mj", gpu))
    return found


def _gpu(meta: Json, cell: Mapping[str, Any], seen: Mapping[str, Any] | None) -> tuple[str | None, str]:
    """The GPU whose readings are this arm's, or None and why there is none.

    A replay stands in for a GPU that no arm uses, and is the first one's.
    """
    if seen:
        return str(seen["uuid"]), ""
    if not meta["gpus"]:
        return None, meta["nulls"].get("gpus") or f"no GPU was read: telemetry source {meta['source']}"
    if cell["device"] == "cuda" or meta["source"] == "replay":
        return str(meta["gpus"][0]["uuid"]), ""
    return None, "this arm uses no GPU"


def _power_column(block: _Block, gpu: str) -> tuple[str, str]:
    if len(block.track(_POWER_AVERAGE, gpu=gpu).t_ns):
        return _POWER_AVERAGE, "average of 1 s"
    known: Json = next((one for one in block.meta["gpus"] if one["uuid"] == gpu), {})
    return "power_mw", known.get("power_is") or "instant or average, the driver does not say"


def _figure(found: Soak, name: str, track: Track, take: Callable[..., float], soak: Json, unread: str) -> None:
    try:
        found.figures[name] = take(track, soak["start_ns"], soak["end_ns"])
    except Unresolved as reason:
        found.nulls[name] = _reason(track, soak, str(reason), unread)


def _reason(track: Track, soak: Json, reason: str, unread: str) -> str:
    """Why it is null: what the driver said where nothing was read in the soak, else what the readings lack."""
    return reason if ((track.t_ns >= soak["start_ns"]) & (track.t_ns <= soak["end_ns"])).any() else unread


def _energy(found: Soak, prefix: str, track: Track, soak: Json, items: int, unread: str) -> None:
    names = [prefix + name for name in _OF_ENERGY]
    try:
        power = track.power(soak["start_ns"], soak["end_ns"])
    except Unresolved as reason:
        found.nulls |= dict.fromkeys(names, _reason(track, soak, str(reason), unread))
        return
    seconds = (soak["end_ns"] - soak["start_ns"]) / 1e9
    found.figures |= dict(zip(names, (power.watts, power.watts * seconds / items, power.uncertainty), strict=True))


def of_cell(soaks: list[Soak]) -> tuple[Json, dict[str, str]]:
    """A cell's figures over its soaks, one or more, {median, ci, blocks} each, and for every null its reason."""
    nulls: dict[str, str] = {}
    found: Json = {"blocks": len(soaks), "power_is": next((one.power_is for one in soaks if one.power_is), None)}
    if found["power_is"] is None:
        nulls["soak.power_is"] = "no power was read"
    for name in FIGURES:
        values = [one.figures[name] for one in soaks if name in one.figures]
        figure = stats.cell_figure(values)
        found[name] = _cell_figure(figure, len(values))
        if figure is None:
            nulls[f"soak.{name}"] = next((one.nulls[name] for one in reversed(soaks) if name in one.nulls), "not read")
        elif figure.ci is None:
            nulls[f"soak.{name}.ci"] = f"{len(values)} of the {stats.MIN_TRIALS} blocks that an exact interval takes"
    return found, nulls


def unsoaked(*, blocks: int, source: str) -> str:
    """Why a cell of so many blocks has no soak."""
    if not blocks:
        return "no whole block"
    if source == "none":
        return "no GPU was read: telemetry source none; nor was the processors' energy, or the matrix says soak: off"
    return "this arm uses no GPU, or the matrix says telemetry: {soak: off}"


def _cell_figure(figure: stats.Figure | None, blocks: int) -> Json:
    if figure is None:
        return {"median": None, "ci": None, "blocks": blocks}
    return {"median": figure.median, "ci": list(figure.ci) if figure.ci else None, "blocks": blocks}
