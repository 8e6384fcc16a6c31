"""The report as GitHub Markdown: the page that is published in results/."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from bench import text as words
from bench.estimate.figures import ON_PAGE, STARTUP
from bench.report import marks, soak_table
from bench.report.rows import Json, Row, direction, facts, failures, heads, results, rows, startup

_SPECIAL = re.compile(r"([\\`*\[\]<>|~#])|(?<![^\W_])(_)|(_)(?![^\W_])")

_LEFT = {"workload", "mode", "phase", "pair", "verdict", "parity", "cell", "image"}


def render(summary: Json) -> str:
    """One page: comparisons, verdicts, cells, results, failures, and where the numbers come from."""
    table = rows(summary)
    name = summary["run"]["matrix"] or summary["run"]["id"]
    parts = [f"# {escape(name)}", f"Ratio: {escape(direction(table))}."]
    parts += [_comparisons(table), _section("Verdicts", [_verdict(row) for row in table])]
    parts += [_section("Results", [escape(line) for line in results(summary)])]
    parts += [_section("Failures", [escape(line) for line in failures(summary)])]
    parts += [
        "## Cells",
        "Percentiles are of steps timed one by one; all other times are of the samples that decide.",
        _cells(summary),
        "## Start-up",
        _startup(summary),
        *_soaks(summary),
        _section("Notes", [escape(note) for note in summary["notes"]]),
    ]
    parts += [
        _section("Origin", [f"**{heading}**: {escape(text)}" for heading, text in facts(summary) if heading != "ratio"])
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: object) -> str:
    """Text that GitHub shows as it is, one line, in a table's cell too."""
    return _SPECIAL.sub(lambda found: "\\" + found[0], words.clean(text))


def _comparisons(table: Sequence[Row]) -> str:
    baseline, arm = heads(table) or ("baseline", "arm")
    named = heads(table) is None
    modes = any(row.mode for row in table)
    columns = ["workload", *(["mode"] if modes else []), "phase", "batch", *(["pair"] if named else [])]
    numbers = [f"{side} {unit}" for unit in ("ms a step", "items/s") for side in (baseline, arm)]
    columns += [*numbers, "ratio", "CPU ratio", "blocks", "p (Holm)", "verdict", "parity"]
    lines = []
    for row in table:
        workload = " ".join([row.workload, *row.details])
        pair = [f"{row.baseline['label']} → {row.arm['label']}"] if named else []
        lines.append([workload, *([row.mode] if modes else []), row.phase, row.batch, *pair, *_numbers(row)])
    return _table(columns, lines)


def _numbers(row: Row) -> list[str]:
    one, sides = row.contrast, [row.contrast["sides"][side] for side in ("baseline", "arm")]
    cpu = one["cpu_ratio"] or {"ratio": None, "ci": None}
    steps = [_figure(own["step_ms"]["median"], own["step_ms"]["ci"]) for own in sides]
    rates = [_figure(own["items_per_s"]["median"], own["items_per_s"]["ci"], words.rate) for own in sides]
    ratios = [_figure(part["ratio"], part["ci"], words.ratio) for part in (one, cpu)]
    p = words.NOTHING if one["p_holm"] is None else f"{one['p_holm']:.2g}"
    flags = marks.caveat_marks(one["caveats"])
    verdict = f"{marks.SYMBOLS[one['verdict']]} {marks.spoken(one['verdict'])}" + (f" ({flags})" if flags else "")
    return [*steps, *rates, *ratios, str(one["blocks"]), p, verdict, _parity(one["parity"])]


def _parity(parity: Json) -> str:
    error = parity["max_rel_error"]
    return str(parity["status"]) + ("" if error is None else f", {error:.1e}")


def _verdict(row: Row) -> str:
    one = row.contrast
    pair = f"{row.arm['label']} against {row.baseline['label']}"
    text = f"{escape(row.title)}, {escape(pair)}: **{marks.spoken(one['verdict'])}**. {escape(one['reason'])}"
    text += "".join(f". Caveat *{caveat['kind']}*: {escape(caveat['text'])}" for caveat in one["caveats"])
    return text + (f". Beside that they differ: {escape('; '.join(one['confounders']))}" if one["confounders"] else "")


def _cells(summary: Json) -> str:
    columns = ["cell", *(str(one.heading) for one in ON_PAGE), "blocks", "failed", "image"]
    lines = []
    for cell in summary["cells"]:
        told = [_figure(*one.of(cell["metrics"]), one.write) for one in ON_PAGE]
        blocks, failed = str(cell["blocks"]), str(cell["failed"])
        lines.append([cell["id"], *told, blocks, failed, marks.short_image(cell["image"])])
    return _table(columns, lines)


def _startup(summary: Json) -> str:
    """Of every block's fresh workers; `cold` of the run's first, which found nothing compiled."""
    columns = ["cell", *(str(one.start) for one in STARTUP), "cold build", "cold first step"]
    lines = []
    for cell in summary["cells"]:
        own = cell["metrics"]
        warm = [startup(own["startup"][one.name]) for one in STARTUP]
        cold = [words.seconds(own[f"cold_{name}"]) for name in ("build_s", "first_step_s")]
        lines.append([cell["id"], *warm, *cold])
    return _table(columns, lines)


def _soaks(summary: Json) -> list[str]:
    """Utilization, power and energy; nothing where no arm soaked."""
    if not soak_table.is_told(summary):
        return []
    power = soak_table.power_is(summary)
    told = f"Medians over blocks, {soak_table.heading(summary)}" + (f"; power is {power}" if power else "")
    return ["## Soaks", escape(f"{told}."), _table(*soak_table.table(summary))]


def _figure(value: float | None, ci: Sequence[float] | None, write: words.Writer = words.number) -> str:
    return f"{write(value)} ({words.interval(ci, write)})" if ci else write(value)


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---" if name in _LEFT else "---:" for name in columns]
    return "\n".join([_line(map(escape, columns)), _line(rule), *(_line(map(escape, line)) for line in lines)])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _section(heading: str, lines: Sequence[str]) -> str:
    return f"## {heading}\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""
