"""The report as CSV and JSON, for other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bench import text as words
from bench.estimate import names
from bench.estimate.figures import IN_CSV
from bench.estimate.soaks import FIGURES

if TYPE_CHECKING:
    from bench.report.rows import Json

CONTRAST_COLUMNS = (
    *("metric", "ratio", "ci_low", "ci_high", "half_width", "p", "p_holm", "p_t_holm", "p_equal_holm"),
    *("blocks", "blocks_repeated"),
)
CPU_COLUMNS = ("cpu_ratio", "cpu_ci_low", "cpu_ci_high")
JUDGED_COLUMNS = ("verdict", "reason", "caveats", "parity", "parity_max_rel_error", "parity_made_at", "confounders")
AXES = ("phase", "mode", "batch_size", "precision", "device", "threads", "division", "launcher")
CELL_COLUMNS = ("cell", "label", "workload", "workload_parameters", "framework", "framework_version")
SOAKED = tuple(f"soak_{name}" for name in FIGURES if name not in ("gpu_util_percent", "joules_per_item"))
COLUMNS = (
    *("run", "contrast", "comparison", "side"),
    *CELL_COLUMNS,
    *AXES,
    *("image", "cell_blocks", "cell_failed"),
    *(f"{one.name}{end}" for one in IN_CSV for end in (("", "_ci_low", "_ci_high") if one.csv_interval else ("",))),
    *SOAKED,
    *CONTRAST_COLUMNS,
    *CPU_COLUMNS,
    *JUDGED_COLUMNS,
)


def json_text(summary: Json) -> str:
    """The document itself; a NaN in it is a mistake here, and raises ValueError."""
    return json.dumps(summary, allow_nan=False, indent=2, ensure_ascii=False) + "\n"


def csv_text(summary: Json) -> str:
    """One row a side of a contrast: baseline and arm, each with its cell's figures and what the contrast came to."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    cells = {cell["id"]: cell for cell in summary["cells"]}
    for one in summary["contrasts"]:
        for side in ("baseline", "arm"):
            plain = {"run": summary["run"]["id"], "contrast": one["id"], "comparison": one["comparison"], "side": side}
            row = {**plain, **dict(_cell(cells[one[side]])), **dict(_side(one["sides"][side])), **dict(_contrast(one))}
            writer.writerow({name: _safe(value) for name, value in row.items()})
    return out.getvalue()


def _cell(cell: Json) -> Iterator[tuple[str, Any]]:
    plain = cell["cell"]
    yield "cell", cell["id"]
    yield "label", cell["label"]
    yield "workload", plain["workload"]["name"]
    yield "workload_parameters", _parameters(plain["workload"])
    yield "framework", plain["framework"]["name"]
    yield "framework_version", names.own_version(cell)
    yield from ((axis, plain.get(axis)) for axis in AXES)
    yield "image", cell["image"]
    yield "cell_blocks", cell["blocks"]
    yield "cell_failed", cell["failed"]
    metrics = cell["metrics"]
    for one in IN_CSV:
        value, ci = one.of(metrics)
        yield one.name, value
        if one.csv_interval:
            yield from _ends(one.name, ci)
    soak = metrics["soak"] or {}
    yield from ((name, soak.get(name.removeprefix("soak_"), {}).get("median")) for name in SOAKED)


def _side(own: Json) -> Iterator[tuple[str, Any]]:
    """Step time and throughput of the blocks that the ratio is of; the cell's other figures are of all of its own."""
    for name, figure in own.items():
        yield name, figure["median"]
        yield from _ends(name, figure["ci"])


def _contrast(one: Json) -> Iterator[tuple[str, Any]]:
    yield from ((name, one[name]) for name in CONTRAST_COLUMNS if not name.startswith("ci_"))
    yield from _ends("", one["ci"])
    cpu = one["cpu_ratio"] or {"ratio": None, "ci": None}
    yield "cpu_ratio", cpu["ratio"]
    yield from _ends("cpu", cpu["ci"])
    yield "verdict", one["verdict"]
    yield "reason", one["reason"]
    yield "caveats", "; ".join(f"{caveat['kind']}: {caveat['text']}" for caveat in one["caveats"])
    yield "parity", one["parity"]["status"]
    yield "parity_max_rel_error", one["parity"]["max_rel_error"]
    yield "parity_made_at", one["parity"]["made_at"]
    yield "confounders", "; ".join(one["confounders"])


def _ends(name: str, ci: list[float] | None) -> Iterator[tuple[str, float | None]]:
    prefix = f"{name}_" if name else ""
    low, high = ci or (None, None)
    yield f"{prefix}ci_low", low
    yield f"{prefix}ci_high", high


def _parameters(workload: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(workload.items()) if key != "name")


def _safe(value: object) -> object:
    """Text on one line that no spreadsheet takes for a formula; numbers as they are, nothing as an empty field."""
    if not isinstance(value, str):
        return value
    text = words.clean(value)
    return f"'{text}" if text[:1] in {"=", "+", "-", "@"} else text
