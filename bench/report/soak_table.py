"""The soaks as rows of words, for the terminal and the page: one cell a row, and only columns that hold anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bench import text

Json = Mapping[str, Any]


def _percent(value: float | None) -> str:
    return text.NOTHING if value is None else f"{100 * value:.2g} %"


def _energy(value: float | None) -> str:
    """J, mJ, µJ or nJ."""
    if value is None:
        return text.NOTHING
    for unit, factor in (("J", 1.0), ("mJ", 1e3), ("µJ", 1e6)):
        if abs(value * factor) >= 1:
            return f"{text.number(value * factor)} {unit}"
    return f"{text.number(value * 1e9)} nJ"


COLUMNS: dict[str, tuple[str, str, Callable[[float | None], str]]] = {
    "gpu_util_percent": ("GPU in use", "%", text.number),
    "gpu_memory_arm_bytes": ("its GPU memory", "", text.mebibytes),
    "gpu_memory_used_bytes": ("GPU memory of all", "", text.mebibytes),
    "sm_clock_mhz": ("SM clock", "MHz", text.number),
    "start_temperature_c": ("at start", "°C", text.number),
    "power_w": ("power", "W", text.number),
    "power_by_energy_w": ("power by energy", "W", text.number),
    "joules_per_item": ("energy an item", "", _energy),
    "energy_uncertainty": ("± by its counter", "", _percent),
    "cpu_power_by_energy_w": ("CPU packages", "W", text.number),
    "cpu_joules_per_item": ("CPU energy an item", "", _energy),
    "cpu_energy_uncertainty": ("± by its counter (CPU)", "", _percent),
}
_EXPLAINED = ("gpu_util_percent", "power_w", "joules_per_item")
_BRIEF = ("gpu_util_percent", "gpu_memory_arm_bytes", "power_w", "joules_per_item", "cpu_joules_per_item")


def is_told(summary: Json) -> bool:
    """Whether any cell's soaks tell anything."""
    return bool(_held(summary))


def heading(summary: Json) -> str:
    """What the table is, and that a replay is none."""
    source = {
        "replay": "REPLAY of a recorded trace, nothing of it was measured here",
        "nvml": "GPU by NVML",
        "none": "no GPU",
    }
    return f"outside the ratios; {source[summary['telemetry']['source']]}"


def table(summary: Json) -> tuple[list[str], list[list[str]]]:
    """Column names, and a line a cell: medians over blocks with their intervals."""
    held = _held(summary)
    lines = []
    for cell in summary["cells"]:
        soak = cell["metrics"]["soak"]
        if soak:
            lines.append([cell["id"], *(_figure(soak[name], COLUMNS[name][2]) for name in held)])
    return ["cell", *(", ".join(filter(None, COLUMNS[name][:2])) for name in held)], lines


def lines(summary: Json) -> list[str]:
    """A cell a line, for a report that has no room for the table; then what is missing, and why."""
    if not _soaked(summary):
        return []
    found = [heading(summary)]
    for cell in _soaked(summary):
        soak = cell["metrics"]["soak"]
        told = [
            f"{name} {_figure(soak[key], write)} {unit}".strip()
            for key, (name, unit, write) in COLUMNS.items()
            if key in _BRIEF and soak[key]["median"] is not None
        ]
        if told:
            found.append(text.clean(f"{cell['id']}: {', '.join(told)}"))
    return [*found, *missing(summary, _EXPLAINED)]


def power_is(summary: Json) -> str | None:
    """What the power is, by the driver's documentation."""
    kinds = {cell["metrics"]["soak"]["power_is"] for cell in _soaked(summary)} - {None}
    return " and ".join(sorted(kinds)) or None


def missing(summary: Json, names: Iterable[str] = COLUMNS) -> list[str]:
    """Why these figures of soaks are null where they are, every reason once for all cells."""
    reasons: dict[str, list[str]] = {}
    for name in names:
        for reason in {cell["nulls"].get(f"soak.{name}") for cell in _soaked(summary)} - {None}:
            reasons.setdefault(str(reason), []).append(COLUMNS[name][0])
    return [text.clean(f"no {', no '.join(names)}: {reason}") for reason, names in sorted(reasons.items())]


def _soaked(summary: Json) -> list[Json]:
    return [cell for cell in summary["cells"] if cell["metrics"]["soak"]]


def _held(summary: Json) -> list[str]:
    soaks = [cell["metrics"]["soak"] for cell in _soaked(summary)]
    return [name for name in COLUMNS if any(soak[name]["median"] is not None for soak in soaks)]


def _figure(figure: Json, write: Callable[[float | None], str]) -> str:
    ends = f" ({text.interval(figure['ci'], write)})" if figure["ci"] else ""
    return write(figure["median"]) + ends
