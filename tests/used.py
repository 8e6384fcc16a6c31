"""What an arm used in one block, by the readings of the sampler: what tests of the sampler hold it to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import telemetry


def used(path: Path) -> dict[str, dict[str, Any]]:
    """By arm; a figure that was not measured is None.

    samples               readings of the arm
    seconds               from the first to the last of them
    cpu_s                 CPU time between them, s; likewise cpu_percent (of one core), throttled (periods),
    pressure_cpu_s        time in which some task waited for a CPU, s, and involuntary_switches
    peak_memory_bytes     the highest that was read or that the kernel kept
    """
    rows = telemetry.readings(path).astype(object)
    rows = rows.where(rows.notna(), None).to_dict("records")
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["arm"] is not None and row["gpu"] is None:
            by_arm.setdefault(row["arm"], []).append(row)
    return {arm: _summed(readings) for arm, readings in by_arm.items()}


def _summed(readings: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = (readings[-1]["t_ns"] - readings[0]["t_ns"]) / 1e9
    cpu_s = _scaled(_growth(readings, "cpu_ns"), 1e-9)
    memory = [row[name] for row in readings for name in ("memory_bytes", "memory_peak_bytes") if row[name] is not None]
    return {
        "samples": len(readings),
        "seconds": seconds,
        "cpu_s": cpu_s,
        "cpu_percent": _scaled(cpu_s, 100 / seconds) if seconds else None,
        "peak_memory_bytes": max(memory, default=None),
        "throttled": _growth(readings, "throttled"),
        "pressure_cpu_s": _scaled(_growth(readings, "pressure_cpu_us"), 1e-6),
        "involuntary_switches": _growth(readings, "involuntary_switches"),
    }


def _growth(readings: list[dict[str, Any]], column: str) -> int | None:
    """What a counter gained between its first and last reading; None with fewer than two."""
    values = [row[column] for row in readings if row.get(column) is not None]
    return values[-1] - values[0] if len(values) > 1 else None


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
