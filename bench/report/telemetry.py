"""`bench telemetry show`: what was read beside a run, whose time it was read in, and how well; JSON and terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bench import records, telemetry
from bench import text as words
from bench.errors import InputError
from bench.estimate import summary
from bench.report import chart, soak_table
from bench.telemetry import attribution

if TYPE_CHECKING:
    from pathlib import Path

    from bench.store import StoredRun

Json = dict[str, Any]

SCHEMA = "bench.telemetry.show/1"
_FIELDS = {*telemetry.COLUMNS, "programs"}
_BARS = "▁▂▃▄▅▆▇█"
_GPU_LINES = (
    ("gpu_util_percent", 1.0, "in use", "%"),
    ("power_mw", 1e-3, "power", "W"),
    ("sm_clock_mhz", 1.0, "SM clock", "MHz"),
    ("gpu_memory_used_bytes", 2.0**-20, "memory", "MiB"),
)
_LETTERS = {"start": "·", "compile": "c", "warm_up": "w", "slice": "s", "soak": "S", attribution.GAP: " "}
_INKS = ("cyan", "yellow", "green", "magenta", "blue", "red")
_LEAST_WIDTH, _MOST_WIDTH = 24, 100


def document(run: StoredRun, told: Json | None = None) -> Json:
    """All of it, as plain JSON: the report's telemetry, its soaks, and the readings by arm and by what the arm did.

    told    what `bench report` makes of the run, where it is known already
    raises  InputError: a block's readings are damaged
    """
    told = told or summary.summarise(run)
    blocks = [(record, path) for record in records.latest(run.blocks) if (path := run.telemetry(record))]
    facts = [telemetry.meta(path) for _, path in blocks]
    cells = [
        {name: cell[name] for name in ("id", "comparison", "label")} | {
            "soak": cell["metrics"]["soak"],
            "nulls": {name: why for name, why in cell["nulls"].items() if name.startswith("soak")},
        }
        for cell in told["cells"]
    ]  # fmt: skip
    return {
        "schema": SCHEMA,
        "run": told["run"]["id"],
        "telemetry": told["telemetry"],
        "sampler": _sampler(facts),
        "gpus": facts[-1]["gpus"] if facts else [],
        "cells": cells,
        "spans": _spans(run, blocks),
        "foreign": [
            {"comparison": record["comparison"], "block": record["block"], "gpu": gpu, "pid": int(pid), **program}
            for (record, _), one in zip(blocks, facts, strict=True)
            for gpu, programs in one.get("foreign", {}).items()
            for pid, program in programs.items()
        ],
        "nulls": dict(sorted({name: why for one in facts for name, why in one["nulls"].items()}.items())),
    }


def _sampler(facts: list[Json]) -> Json:
    """What sampling cost, of one core, while a block lasted; and how many readings fell out."""
    seconds = sum(one["seconds"] for one in facts)
    cost = 100 * sum(one["sampler_cpu_s"] for one in facts) / seconds if seconds else None
    return {
        "blocks": len(facts),
        "ticks": sum(one["ticks"] for one in facts),
        "late": sum(one["late"] for one in facts),
        "cpu_percent": cost,
        "gpu_read_percent": 100 * sum(one.get("gpu_read_s", 0.0) for one in facts) / seconds if seconds else None,
    }


def _spans(run: StoredRun, blocks: Iterable[tuple[Mapping[str, Any], Path]]) -> list[Json]:
    """For each arm and what it did, and for gaps: for how long, and every reading that was taken meanwhile.

    readings         of any arm's processes, or of what they have of a GPU
    gpu_readings     of GPUs; what they said is nobody's but in a soak, and stands among the soaks
    energy_readings  of the processors' energy
    memory_bytes     the most that this arm was seen to hold
    """
    parts, lasted = [], []
    for record, path in blocks:
        spans = attribution.spans(record, run.steps(record))
        readings = telemetry.readings(path)
        parts.append(attribution.attributed(readings, spans).assign(comparison=record["comparison"]))
        own = [(record["comparison"], one.arm, one.what, (one.end_ns - one.start_ns) / 1e9) for one in spans]
        moments = [*readings["t_ns"], *(end for one in spans for end in (one.start_ns, one.end_ns))]
        whole_s = (max(moments) - min(moments)) / 1e9 if moments else 0.0
        lasted += [*own, (record["comparison"], "", attribution.GAP, whole_s - sum(s for *_, s in own))]
    if not parts:
        return []
    rows = pd.concat(parts, ignore_index=True)
    rows["owner"] = rows["owner"].fillna("")
    keys = ["comparison", "owner", "span"]
    of_arm, of_gpu = rows[rows["arm"].notna()], rows[rows["gpu"].notna() & rows["arm"].isna()]
    table = pd.DataFrame(
        {
            "seconds": pd.DataFrame(lasted, columns=[*keys, "s"]).groupby(keys)["s"].sum(),
            "readings": of_arm.groupby(keys).size(),
            "gpu_readings": of_gpu.groupby(keys).size(),
            "energy_readings": rows[rows["gpu"].isna() & rows["arm"].isna()].groupby(keys).size(),
            "memory_bytes": of_arm[of_arm["arm"] == of_arm["owner"]].groupby(keys)["memory_bytes"].max(),
        }
    ).reset_index()
    counts = ["readings", "gpu_readings", "energy_readings"]
    table[counts] = table[counts].fillna(0)
    table["owner"] = table["owner"].replace("", None)
    order = {kind: number for number, kind in enumerate(attribution.KINDS)}
    table = table.sort_values(
        ["comparison", "owner", "span"], key=lambda one: one.map(order) if one.name == "span" else one
    )
    return [{str(name): _plain(value) for name, value in row.items()} for row in table.to_dict("records")]


def _plain(value: Any) -> Any:
    if isinstance(value, str) or value is None:
        return value
    return None if pd.isna(value) else round(float(value), 6)


# ---------------------------------------------------------------- a terminal


def print_all(run: StoredRun, console: Console, *, record: Mapping[str, Any] | None) -> None:
    """The soaks, a timeline of one block, the readings by what the arm did, and how they were taken."""
    report = summary.summarise(run)
    console.print(Group(*_parts(run, report, document(run, report), record, console.width)))


def _parts(
    run: StoredRun, report: Json, told: Json, record: Mapping[str, Any] | None, width: int
) -> Iterable[RenderableType]:
    yield Text.assemble((" bench telemetry ", "bold reverse"), f"  {words.clean(told['run'])}")
    yield Text(_source(told), style="bold" if told["telemetry"]["source"] == "replay" else "")
    if soak_table.is_told(report):
        yield Text(f"\nsoaks, {soak_table.heading(report)}", style="bold")
        soaked = {cell["comparison"] for cell in report["cells"] if cell["metrics"]["soak"]}
        for comparison in (name for name in run.run["comparisons"] if name in soaked):
            yield _soaks(report, comparison)
    if record is not None:
        yield _timeline(run, record, width)
    if told["spans"]:
        yield Text("all readings, by whose time they were taken in", style="bold")
        for comparison in run.run["comparisons"]:
            yield _span_table([one for one in told["spans"] if one["comparison"] == comparison], comparison)
    yield _list("moves", _refresh(told["telemetry"]["refresh_s"]))
    yield _list("sampler", [_cost(told["sampler"])] if told["sampler"]["blocks"] else ["no block was sampled"])
    yield _list("foreign", [_program(one) for one in told["foreign"]])
    yield _list("null", [*soak_table.missing(report), *_reasons(told["nulls"], _owners(run, told))])


def _source(told: Json) -> str:
    names = ", ".join(dict.fromkeys(gpu["name"] for gpu in told["gpus"])) or "its readings were not kept"
    return {
        "replay": f"GPU: REPLAY of a recorded trace ({names}); nothing of it was measured here",
        "nvml": f"GPU: {names}, by NVML",
        "none": "GPU: none was read",
    }[told["telemetry"]["source"]] + f"; {told['telemetry']['hz']:g} readings a second"


def _grid(title: str, columns: list[str], lines: list[list[str]]) -> RenderableType:
    style = {"title_style": "", "title_justify": "left", "header_style": "bold"}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(words.clean(title)), **style)  # type: ignore[arg-type]
    for number, name in enumerate(columns):
        table.add_column(words.clean(name), justify="right" if number else "left", overflow="fold", no_wrap=not number)
    for line in lines:
        table.add_row(*map(words.clean, line))
    return table


def _soaks(report: Json, comparison: str) -> RenderableType:
    """A figure a row and an arm a column, which fits a narrow terminal."""
    cells = [cell for cell in report["cells"] if cell["comparison"] == comparison]
    columns, lines = soak_table.table({**report, "cells": cells})
    turned = [list(row) for row in zip(columns, *lines, strict=True)]
    return _grid(comparison, ["", *(cell["label"] for cell in cells if cell["metrics"]["soak"])], turned[1:])


def _span_table(spans: list[Json], comparison: str) -> RenderableType:
    counted = {"readings": "readings of arms", "gpu_readings": "of GPUs", "energy_readings": "of energy"}
    shown = {name: heading for name, heading in counted.items() if any(one[name] for one in spans)}
    lines = [
        [
            f"{one['owner'] or ''} {str(one['span']).replace('_', '-')}".strip(),
            words.number(one["seconds"]),
            words.mebibytes(one["memory_bytes"]),
            *(f"{one[name]:,.0f}" for name in shown),
        ]
        for one in spans
    ]
    return _grid(comparison, ["", "seconds", "memory", *shown.values()], lines)


def _timeline(run: StoredRun, record: Mapping[str, Any], width: int) -> RenderableType:
    """One block in one line a field, over one line that says which arm did what."""
    path = run.telemetry(record)
    assert path is not None, "chart.choose() has seen to it"
    spans = attribution.spans(record, run.steps(record))
    readings = telemetry.readings(path)
    moments = [*(span.start_ns for span in spans), *(span.end_ns for span in spans), *readings["t_ns"]]
    room = max(_LEAST_WIDTH, min(_MOST_WIDTH, width - 44))
    edges = np.linspace(min(moments), max(moments), room + 1)
    grid = Table.grid(padding=(0, 2))
    for number, arm in enumerate(record["arms"]):
        text = _letters([span for span in spans if span.arm == arm], edges)
        grid.add_row(Text(words.clean(arm), style="bold"), Text(text, style=_INKS[number % len(_INKS)]), "")
    for name, values, unit in _lines(readings):
        bar, most = _bar(values[0], values[1], edges)
        grid.add_row(Text(name), bar, f"up to {words.number(most)} {unit}")
    lasted = (max(moments) - min(moments)) / 1e9
    title = f"{record['comparison']}, block {record['block'] + 1}, {lasted:.1f} s"
    legend = "· start  c compile  w warm-up  s slice  S soak"
    return Group(Text(), Text.assemble((words.clean(title), "bold"), f"   {legend}"), Padding(grid, (0, 1)), Text())


def _letters(spans: Sequence[attribution.Span], edges: Any) -> str:
    """For each stretch of time what the arm did for most of it, if it did anything."""
    covered = {what: np.zeros(len(edges) - 1) for what in _LETTERS}
    for span in spans:
        overlap = np.minimum(edges[1:], span.end_ns) - np.maximum(edges[:-1], span.start_ns)
        covered[span.what] += np.maximum(overlap, 0)
    table = np.array(list(covered.values()))
    letters = list(_LETTERS.values())
    return "".join(letters[int(column.argmax())] if column.any() else " " for column in table.T)


def _lines(readings: pd.DataFrame) -> Iterable[tuple[str, tuple[Any, Any], str]]:
    of_arms = readings[readings["arm"].notna() & readings["gpu"].isna()]
    for arm, rows in of_arms.groupby("arm", sort=False):
        percent = 100 * rows["cpu_ns"].astype(float).diff() / rows["t_ns"].diff().where(rows["t_ns"].diff() > 0)
        yield f"CPU {words.clean(arm)}", (rows["t_ns"].to_numpy(), percent.to_numpy()), "%"
    of_gpus = readings[readings["gpu"].notna() & readings["arm"].isna()]
    short = words.short_names(of_gpus["gpu"].unique())
    for uuid, rows in of_gpus.groupby("gpu", sort=False):
        for field, factor, name, unit in _GPU_LINES:
            if field in rows and rows[field].notna().any():
                values = rows[field].to_numpy(float) * factor
                yield f"{short[str(uuid)]} {name}", (rows["t_ns"].to_numpy(), values), unit


def _bar(t_ns: Any, values: Any, edges: Any) -> tuple[str, float]:
    """Eighths of the highest value, a blank where nothing was read."""
    known = ~np.isnan(values)
    most = float(np.max(values[known], initial=0.0))
    places = np.clip(np.searchsorted(edges, t_ns[known], side="right") - 1, 0, len(edges) - 2)
    means = pd.Series(values[known]).groupby(places).mean().reindex(range(len(edges) - 1)).ffill(limit=2)
    if most <= 0:
        return "".join(" " if pd.isna(one) else _BARS[0] for one in means), most
    return "".join(" " if pd.isna(one) else _BARS[min(7, max(0, int(8 * one / most)))] for one in means), most


def _refresh(refresh: Json) -> list[str]:
    lines = []
    short = words.short_names(refresh)
    for gpu, fields in refresh.items():
        moved = [f"{name} {seconds:g} s" for name, seconds in fields.items() if seconds is not None]
        still = [name for name, seconds in fields.items() if seconds is None]
        lines.append(f"{short[gpu]}, as seen in soaks: {', '.join(moved) or 'nothing'}")
        if still:
            lines.append(f"{short[gpu]}, read and not seen to move three times: {', '.join(still)}")
    return lines


def _cost(sampler: Json) -> str:
    looked = f"looked {sampler['ticks']:,} times in {sampler['blocks']} blocks, {sampler['late']} fell out"
    if sampler["cpu_percent"] is None:
        return looked
    share = f"{sampler['cpu_percent']:.2f} % of a core, NVML {sampler['gpu_read_percent']:.2f} % of the time"
    return f"{looked}; {share}"


def _program(one: Json) -> str:
    where = f"{one['comparison']}, block {one['block'] + 1}"
    return words.clean(f"{where}: {one['name']} (process {one['pid']}) on {one['gpu'][:12]}")


def _owners(run: StoredRun, told: Json) -> tuple[set[str], set[str]]:
    """The GPUs, whole and in parts, that were read, and the arms of the run."""
    parts = {name.rpartition(".")[0] for name in told["nulls"]}
    gpus = {gpu["uuid"] for gpu in told["gpus"]} | {one for one in parts if one.startswith(("GPU-", "MIG-"))}
    return gpus, {arm for entry in run.run["comparisons"].values() for arm in entry["arms"]}


def _reasons(nulls: Mapping[str, str], owners: tuple[set[str], set[str]]) -> list[str]:
    """Every reason once, with the fields that it is the reason of, and whose, unless they are everybody's."""
    by_reason: dict[str, dict[str, set[str]]] = {}
    for name, why in nulls.items():
        owner, _, field = name.rpartition(".")
        owner, field = (owner, field) if field in _FIELDS else ("", name)
        by_reason.setdefault(why, {}).setdefault(field, set()).add(owner)
    short = words.short_names(owners[0])

    def told(field: str, whose: set[str]) -> str:
        everybodys = whose == {""} or whose in owners
        return field if everybodys else f"{field} ({', '.join(sorted(short.get(one, one) for one in whose))})"

    lines = [f"{why}: {', '.join(told(*one) for one in fields.items())}" for why, fields in by_reason.items()]
    return [words.clean(line) for line in lines]


def _list(heading: str, lines: list[str]) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", width=9)
    grid.add_column(overflow="fold")
    for number, line in enumerate(lines):
        grid.add_row("" if number else heading, Text(line))
    return Padding(grid, (0, 1)) if lines else Text(end="")


def chosen(run: StoredRun, *, comparison: str | None, block: int | None) -> Mapping[str, Any] | None:
    """The block of the timeline; None where none has readings and none was asked for. Raises InputError."""
    try:
        return chart.choose(run, comparison=comparison, block=block)
    except InputError:
        if comparison is None and block is None:
            return None
        raise
