"""A block as a picture: utilization, memory, power and clocks over time, with what each arm did shaded behind them.

A Vega-Lite specification, and SVG or PNG made of it without a browser. A GPU that is a replayed trace is called one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench import records, telemetry, text
from bench.errors import InputError
from bench.estimate import names as naming
from bench.telemetry import attribution

if TYPE_CHECKING:
    from bench.store import StoredRun

Json = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
KINDS = ("svg", "png", "json")
MOST_POINTS = 1500  # of a line: more than pixels
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito: told apart by all eyes
_DASHES = ([1, 0], [6, 3], [2, 2])
_GREYS = ("#111111", "#888888", "#b5b5b5")
_SHADES = {"soak": 0.42, "slice": 0.24, "warm_up": 0.14, "compile": 0.09, "start": 0.05}
_GPU_PANELS = (
    ("GPU utilization, %", (("gpu_util_percent", 1.0),)),
    ("GPU memory, GiB", (("gpu_memory_used_bytes", 2.0**-30),)),
    ("GPU power, W", (("power_average_mw", 1e-3), ("power_instant_mw", 1e-3), ("power_mw", 1e-3))),
    ("clocks, MHz", (("sm_clock_mhz", 1.0), ("memory_clock_mhz", 1.0))),
)
_NAMES = {
    "gpu_util_percent": "in use", "gpu_memory_used_bytes": "all programs", "power_average_mw": "average of 1 s",
    "power_instant_mw": "instant", "power_mw": "nvmlDeviceGetPowerUsage", "sm_clock_mhz": "SM",
    "memory_clock_mhz": "memory",
}  # fmt: skip
_WIDTH, _HEIGHT = 860, 96


def choose(run: StoredRun, *, comparison: str | None = None, block: int | None = None) -> Mapping[str, Any]:
    """The record to draw: of this comparison (else the first that has any) and this block, else the last.

    A valid block with readings comes before one that was spoiled or failed.

    raises  InputError: there is none, or its readings were not kept
    """
    names = list(run.run["comparisons"])
    if comparison is not None and comparison not in names:
        raise InputError(f'comparison "{comparison}" is not in this run; choose {", ".join(names)}')
    own = [one for one in records.latest(run.blocks) if comparison in (None, one["comparison"])]
    wanted = [one for one in own if block in (None, one["block"])]
    drawable = [one for one in wanted if _has_readings(run, one)]
    if not drawable:
        which = "block" if block is None else f"block {block + 1}"
        lack = "has readings in telemetry/" if wanted else "was measured"
        raise InputError(f"{run.folder}: no {which} of {comparison or 'any comparison'} {lack}; nothing to draw")
    first = drawable[0]["comparison"]
    of_first = [one for one in drawable if one["comparison"] == first]
    return ([one for one in of_first if records.valid(one)] or of_first)[-1]


def _has_readings(run: StoredRun, record: Mapping[str, Any]) -> bool:
    path = run.telemetry(record)
    return path is not None and bool(telemetry.row_count(path))


def write(specification: Json, path: Path) -> None:
    """Into a file of the kind that its name ends in: svg, png or json. Raises InputError: another kind."""
    kind = path.suffix.lstrip(".")
    if kind not in KINDS:
        raise InputError(f"{path}: a chart is written as {', '.join(KINDS)}; end the name with one of them")
    if kind == "json":
        data = (json.dumps(specification, indent=1, allow_nan=False) + "\n").encode()
    else:
        vlc = _renderer(path)
        data = (
            vlc.vegalite_to_png(specification, scale=2)
            if kind == "png"
            else str(vlc.vegalite_to_svg(specification)).encode()
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another --to") from None


def _renderer(path: Path) -> Any:
    try:
        import vl_convert
    except ImportError:
        raise InputError(
            f"{path}: to draw takes vl-convert-python; pip install vl-convert-python, or write --to a name.json"
        ) from None
    return vl_convert


def block_chart(run: StoredRun, record: Mapping[str, Any]) -> Json:
    """The picture of one block, as a Vega-Lite specification that holds its data."""
    path = run.telemetry(record)
    assert path is not None, "choose() has seen to it"
    facts = telemetry.meta(path)
    spans = attribution.spans(record, run.steps(record))
    readings = telemetry.readings(path)
    origin_ns = min([*(span.start_ns for span in spans), *readings["t_ns"]])
    entry = run.run["comparisons"][record["comparison"]]
    labels = naming.arm_labels(entry["arms"], entry["compare"])
    gpus = {one["gpu"]["uuid"] for one in record["arms"].values() if one["gpu"]}
    panels = [*_arm_panels(readings, labels, origin_ns), *_gpu_panels(readings, gpus, facts, origin_ns)]
    shades = [_shade(span, labels, origin_ns) for span in spans]
    ends = max([shade["end"] for shade in shades] + [(int(readings["t_ns"].max()) - origin_ns) / 1e9])
    colours, dashes = _scales(list(labels.values()), panels)
    return {
        "$schema": SCHEMA,
        "title": {
            "text": f"{record['comparison']}, block {record['block'] + 1}",
            "subtitle": _subtitle(facts),
            "anchor": "start",
            "fontSize": 15,
            "subtitleFontSize": 12,
        },
        "datasets": {"spans": shades},
        "vconcat": [
            _panel(title, values, ends, (colours, dashes), last=number == len(panels) - 1)
            for number, (title, values) in enumerate(panels)
        ],
        "spacing": 8,
        "config": {"view": {"stroke": "#cccccc"}, "axis": {"gridColor": "#eeeeee"}, "font": "sans-serif"},
    }


def _subtitle(facts: Json) -> list[str]:
    names = ", ".join(dict.fromkeys(gpu["name"] for gpu in facts["gpus"]))
    gpu = {
        "replay": f"GPU: REPLAY of a recorded trace ({names}), nothing of it was measured here",
        "nvml": f"GPU: {names}, by NVML",
        "none": f"GPU: none was read{_because(facts)}",
    }[facts["source"]]
    return [
        f"{gpu}; read {facts['hz']:g} times a second",
        "shaded, from light to dark: start, compile, warm-up, slices, soak",
    ]


def _because(facts: Json) -> str:
    reason = facts["nulls"].get("gpus")
    return f" ({reason})" if reason else ""


def _arm_panels(readings: pd.DataFrame, labels: Mapping[str, str], origin_ns: int) -> Iterator[tuple[str, list[Json]]]:
    of_arms = readings[readings["arm"].notna() & readings["gpu"].isna()]
    used, held = [], []
    for arm, rows in of_arms.groupby("arm", sort=False):
        label, seconds = labels.get(str(arm), str(arm)), (rows["t_ns"] - origin_ns) / 1e9
        percent = 100 * rows["cpu_ns"].astype(float).diff() / rows["t_ns"].diff().where(rows["t_ns"].diff() > 0)
        used += _points(seconds, percent, label)
        held += _points(seconds, rows["memory_bytes"].astype(float) / 2**20, label)
    yield from ((title, points) for title, points in (("CPU, % of a core", used), ("memory, MiB", held)) if points)


def _gpu_panels(
    readings: pd.DataFrame, used: AbstractSet[str], facts: Json, origin_ns: int
) -> Iterator[tuple[str, list[Json]]]:
    """The arms' own GPUs, or parts of one; the first where they use none."""
    shown = used or {gpu["uuid"] for gpu in facts["gpus"][:1]}
    of_gpus = readings[readings["gpu"].isin(shown) & readings["arm"].isna()]
    short = text.short_names(of_gpus["gpu"].unique())
    for title, fields in _GPU_PANELS:
        values: list[Json] = []
        for uuid, rows in of_gpus.groupby("gpu", sort=False):
            seconds = (rows["t_ns"] - origin_ns) / 1e9
            for field, factor in fields:
                if field == "power_mw" and "power_average_mw" in rows and rows["power_average_mw"].notna().any():
                    continue  # the same, and less sure what it is
                if field in rows and rows[field].notna().any():
                    name = f"{_NAMES[field]} ({short[str(uuid)]})" if len(short) > 1 else _NAMES[field]
                    values += _points(seconds, rows[field].astype(float) * factor, name)
        if values:
            yield title, values


def _points(seconds: pd.Series[float], values: pd.Series[float], name: str) -> list[Json]:
    """A line as data: null where nothing was read, which breaks it; of very many readings every n-th."""
    every = max(1, -(-len(values) // MOST_POINTS))
    pairs = zip(seconds[::every], values[::every], strict=True)
    return [{"s": round(s, 3), "v": None if pd.isna(v) else round(float(v), 3), "of": name} for s, v in pairs]


def _shade(span: attribution.Span, labels: Mapping[str, str], origin_ns: int) -> Json:
    start, end = ((moment - origin_ns) / 1e9 for moment in (span.start_ns, span.end_ns))
    return {
        "start": round(start, 4), "end": round(end, 4), "arm": labels.get(span.arm, span.arm),
        "shade": _SHADES[span.what], "what": span.what,
    }  # fmt: skip


def _scales(arms: Sequence[str], panels: Sequence[tuple[str, list[Json]]]) -> tuple[Json, Json]:
    """One colour an arm; the lines of a GPU, which is nobody's, in greys, the first of a panel black, more dashed."""
    colours = {arm: _COLOURS[number % len(_COLOURS)] for number, arm in enumerate(arms)}
    dashes = dict.fromkeys(arms, _DASHES[0])
    for _, values in panels:
        for number, name in enumerate(dict.fromkeys(point["of"] for point in values)):
            colours.setdefault(name, _GREYS[number % len(_GREYS)])
            dashes.setdefault(name, _DASHES[number // len(_GREYS) % len(_DASHES)])
    scales = [{"domain": list(one), "range": list(one.values())} for one in (colours, dashes)]
    return scales[0], scales[1]


def _panel(title: str, values: list[Json], ends: float, scales: tuple[Json, Json], *, last: bool) -> Json:
    colours, dashes = scales
    x: Json = {"type": "quantitative", "scale": {"domain": [0, round(ends, 2)], "nice": False}}
    axis = {"title": "seconds in the block"} if last else {"title": None, "labels": False}
    named = list(dict.fromkeys(point["of"] for point in values))
    legend = {"title": None, "values": named, "symbolStrokeWidth": 2}
    y: Json = {"field": "v", "type": "quantitative", "title": title, "axis": {"titleFontSize": 11}}
    if title.startswith("GPU utilization"):
        y["scale"] = {"domain": [0, 100]}
    grown = title.startswith("CPU")  # a growth belongs to the time before its reading, a level to the time after
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "layer": [
            {
                "data": {"name": "spans"},
                "mark": {"type": "rect", "tooltip": True},
                "encoding": {
                    "x": {"field": "start", **x, "axis": axis},
                    "x2": {"field": "end"},
                    "color": {"field": "arm", "type": "nominal", "scale": colours, "legend": None},
                    "opacity": {"field": "shade", "type": "quantitative", "scale": None, "legend": None},
                },
            },
            {
                "data": {"values": values},
                "mark": {
                    "type": "line", "strokeWidth": 1.3, "interpolate": "step-before" if grown else "step-after",
                },
                "encoding": {
                    "x": {"field": "s", **x},
                    "y": y,
                    "color": {"field": "of", "type": "nominal", "scale": colours, "legend": legend},
                    "strokeDash": {"field": "of", "type": "nominal", "scale": dashes, "legend": legend},
                },
            },
        ],
        "resolve": {"legend": {"color": "independent", "strokeDash": "independent"}},
    }  # fmt: skip
