"""`bench top`: what the arms of a run do now, read along from the file that its sampler writes anyway.

Nothing is asked of the kernel or of NVML a second time, and this process keeps off the arms' processors where there are
others: looking on costs the measurement as little as it can.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bench import store
from bench import text as words
from bench.errors import InputError
from bench.estimate import names as naming
from bench.telemetry import COLUMNS, LIVE

SCHEMA = "bench.top/1"
SECONDS = 4.0  # that figures are taken over
_TAIL_BYTES = 262_144  # holds that of many arms and GPUs at the highest rate
_LATE_S = 5.0  # without a reading: between two blocks, or the sampler has died

Json = dict[str, Any]
Row = Mapping[str, str]


def find(given: Path | None, out: Path) -> Path:
    """The folder of the run that goes on: as given, else the newest in `out` whose sampler lives. Raises InputError."""
    if given is not None:
        return given
    going = [folder for folder in out.glob("*/") if (folder / "run.json").exists() and _is_going(folder)]
    if not going:
        raise InputError(f"no run goes on in {out}; start one with bench run --matrix, or name its folder or --out")
    return max(going, key=lambda folder: (folder / "run.json").stat().st_mtime)


def look(folder: Path) -> Json:
    """What goes on in a run now; a figure that cannot be told is None."""
    run = store.read_run(folder)
    labels = {
        arm: label
        for entry in run["comparisons"].values()
        for arm, label in naming.arm_labels(entry["arms"], entry["compare"]).items()
    }
    rows = _recent(_live(folder))
    blocks, last = store.last_block(folder)
    return {
        "schema": SCHEMA,
        "run": run["id"],
        "going": _is_going(folder),
        "finished_at": run.get("finished_at"),
        "telemetry": {"source": run["telemetry"]["source"], "hz": run["telemetry"]["hz"]},
        "blocks": blocks,
        "last_block": last and {name: last[name] for name in ("comparison", "block", "attempt", "spoiled", "wall_s")},
        "arms": _arms(rows, labels),
        "gpus": _gpus(rows),
    }


def watch(folder: Path, console: Console, *, every_s: float) -> None:
    """Show it anew every so many seconds, until the run ends or an interrupt."""
    with Live(console=console, auto_refresh=False, screen=False) as live:
        while True:
            seen = look(folder)
            live.update(render(seen), refresh=True)
            if not seen["going"]:
                return
            time.sleep(every_s)


def render(seen: Json) -> RenderableType:
    """As a terminal shows it."""
    state = "goes on" if seen["going"] else "has ended" if seen["finished_at"] else "stands still"
    title = Text.assemble((" bench top ", "bold reverse"), f"  {words.clean(seen['run'])} {state}, ")
    title.append(f"{seen['blocks']} {'block' if seen['blocks'] == 1 else 'blocks'} kept")
    if seen["last_block"]:
        last = seen["last_block"]
        title.append(f", the last of {words.clean(last['comparison'])} in {last['wall_s']:.1f} s", style="dim")
    parts: list[RenderableType] = [title]
    if seen["arms"]:
        parts.append(_arm_table(seen["arms"]))
    elif seen["going"]:
        parts.append(Text("no arm is up now: between two blocks, or being prepared", style="dim"))
    if seen["gpus"]:
        parts.append(_gpu_table(seen["gpus"], replayed=seen["telemetry"]["source"] == "replay"))
    return Group(*parts)


def _arm_table(arms: list[Json]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("arm", "CPU, %", "memory", "peak", "GPU memory", "read"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for one in arms:
        table.add_row(
            Text(words.clean(one["label"])),
            words.number(one["cpu_percent"]),
            *(words.mebibytes(one[name]) for name in ("memory_bytes", "memory_peak_bytes", "gpu_memory_bytes")),
            f"{one['age_s']:.1f} s ago",
            style="" if one["age_s"] < _LATE_S else "dim",
        )
    return table


def _gpu_table(gpus: list[Json], *, replayed: bool) -> Table:
    title = "REPLAY, no GPU" if replayed else "GPU"
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (title, "in use, %", "memory", "power, W", "SM clock, MHz", "°C"):
        table.add_column(name, justify="left" if name == title else "right")
    for one in gpus:
        table.add_row(
            one["uuid"][:16],
            words.number(one["gpu_util_percent"]),
            words.mebibytes(one["gpu_memory_used_bytes"]),
            *(words.number(one[name]) for name in ("power_w", "sm_clock_mhz", "temperature_c")),
        )
    return table


# ---------------------------------------------------------------- what the sampler has written


@dataclass(frozen=True)
class _Recent:
    """The readings of the last seconds by arm, by GPU, and of both together."""

    arms: dict[str, list[Row]]
    gpus: dict[str, list[Row]]
    shares: dict[str, dict[str, Row]]


def _live(folder: Path) -> Path | None:
    """The file that is being written, of the newest sampler; one that has just been put away is none."""
    found = []
    for path in (folder / "telemetry").glob(LIVE.format("*")):
        with contextlib.suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, path))
    return max(found)[1] if found else None


def _is_going(folder: Path) -> bool:
    """Whether a harness holds the run, and the process that writes the readings lives."""
    file = _live(folder)
    before, after = LIVE.split("{}")
    alive = file is not None and Path(f"/proc/{file.name.removeprefix(before).removesuffix(after)}").exists()
    return alive and _is_held(folder)


def _is_held(folder: Path) -> bool:
    """Whether somebody holds its lock, as the kernel tells it: to try the lock would be in a harness's way."""
    try:
        inode = (folder / ".lock").stat().st_ino
        locks = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return True  # it cannot be told; a killed run's leftovers may then seem to go on
    return any(marks[5].endswith(f":{inode}") for line in locks.splitlines() if len(marks := line.split()) > 5)


def _recent(file: Path | None) -> _Recent:
    found = _Recent({}, {}, {})
    since_ns = time.monotonic_ns() - SECONDS * 1e9
    latest: dict[str, Row] = {}
    for row in _tail(file) if file else ():
        if row["arm"] and row["gpu"]:
            found.shares.setdefault(row["arm"], {})[row["gpu"]] = row
        elif row["arm"]:
            latest[row["arm"]] = row
            if int(row["t_ns"]) >= since_ns:
                found.arms.setdefault(row["arm"], []).append(row)
        elif row["gpu"] and int(row["t_ns"]) >= since_ns:
            found.gpus.setdefault(row["gpu"], []).append(row)
    for arm, row in latest.items():
        found.arms.setdefault(arm, [row])
    return found


def _tail(file: Path) -> list[Row]:
    """The last whole lines; none where the block has just ended."""
    try:
        with file.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            handle.seek(max(0, size - _TAIL_BYTES))
            text = handle.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = deque(text.splitlines(keepends=True))
    lines.popleft() if lines else None  # the heading, or half a line
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    return [row for row in csv.DictReader(io.StringIO("".join(lines)), COLUMNS) if row["package_energy_uj"] is not None]


def _arms(recent: _Recent, labels: Mapping[str, str]) -> list[Json]:
    now_ns = time.monotonic_ns()
    return [
        {
            "arm": arm,
            "label": labels.get(arm, arm),
            "cpu_percent": _growth_percent(rows),
            "memory_bytes": _last(rows, "memory_bytes"),
            "memory_peak_bytes": _last(rows, "memory_peak_bytes"),
            "gpu_memory_bytes": _of_gpus(recent.shares.get(arm, {})),
            "age_s": round((now_ns - int(rows[-1]["t_ns"])) / 1e9, 3),
        }
        for arm, rows in recent.arms.items()
    ]


def _gpus(recent: _Recent) -> list[Json]:
    names = ("gpu_util_percent", "gpu_memory_used_bytes", "sm_clock_mhz", "temperature_c")
    found = []
    for uuid, rows in recent.gpus.items():
        read = [known for name in ("power_average_mw", "power_mw") if (known := _last(rows, name)) is not None]
        power_mw = read[0] if read else None
        power_w = None if power_mw is None else power_mw / 1000
        found.append({"uuid": uuid, **{name: _last(rows, name) for name in names}, "power_w": power_w})
    return found


def _of_gpus(shares: Mapping[str, Row]) -> int | None:
    """What an arm has of all GPUs; the parts of one are counted where the whole is not told."""
    known = {gpu: held for gpu, row in shares.items() if (held := _last([row], "arm_memory_bytes")) is not None}
    whole = [held for gpu, held in known.items() if not gpu.startswith("MIG-")]
    return sum(whole or known.values()) if known else None


def _last(rows: list[Row], name: str) -> int | None:
    return next((int(row[name]) for row in reversed(rows) if row[name]), None)


def _growth_percent(rows: list[Row]) -> float | None:
    """CPU time as a share of one core over the last seconds; None where they hold too few readings."""
    known = [(int(row["t_ns"]), int(row["cpu_ns"])) for row in rows if row["cpu_ns"]]
    if len(known) < 2 or known[-1][0] == known[0][0]:
        return None
    return round(100 * (known[-1][1] - known[0][1]) / (known[-1][0] - known[0][0]), 1)
