"""The comparison table in a terminal: one row a contrast, read at a glance at 120 columns, stacked below 112."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bench import text as words
from bench.report import marks, soak_table
from bench.report.rows import Json, Row, facts, failures, heads, results, rows, startups

WIDE = 112
STYLES = {
    "faster": "bold green",
    "slower": "bold dark_orange",
    "equivalent": "bold cyan",
    "small": "bold cyan",
    "inconclusive": "yellow",
    "no_steady_state": "magenta",
    "degrading": "magenta",
    "unsupported": "dim",
    "failed": "bold red",
    "invalid": "bold red",
}
_PARITY = {"passed": ("✓ passed", "green"), "failed": ("✗ failed", "bold red"), "skipped": ("· skipped", "yellow")}


def render(summary: Json, console: Console) -> None:
    """Print the table, what each verdict rests on, and where the numbers come from."""
    console.print(document(summary, width=console.width))


def document(summary: Json, *, width: int) -> RenderableType:
    """The whole report as one renderable, laid out for so many columns."""
    table = rows(summary)
    if not table:
        return Text("nothing to compare: this run holds no contrast")
    grid = _wide(table) if width >= WIDE else _narrow(table)
    parts: list[RenderableType] = [_title(summary), grid, _pairs(_verdicts(table))]
    sections = {
        "results": results(summary), "start-up": startups(summary), "soaks": soak_table.lines(summary),
        "failures": failures(summary),
        "notes": _notes(summary),
    }  # fmt: skip
    for heading, lines in sections.items():
        if lines:
            parts += [Text(), _pairs([(heading if index == 0 else "", Text(line)) for index, line in enumerate(lines)])]
    parts += [Text(), _pairs([(heading, Text(text, style="dim")) for heading, text in facts(summary)])]
    return Group(*parts)


def _title(summary: Json) -> RenderableType:
    run = summary["run"]
    name = words.clean(run["matrix"] or run["id"])
    return Text.assemble((" bench ", "bold reverse"), ("  " + name, "bold"), (f"  {words.clean(run['id'])}", "dim"))


def _wide(table: Sequence[Row]) -> Table:
    """Rates have columns of their own where all rows have the same two arms; else they stand below the times."""
    grid = _grid()
    named = heads(table) is None
    baseline, arm = heads(table) or ("baseline", "arm")
    grid.add_column("workload", overflow="fold", min_width=_widest_name(table))
    grid.add_column("phase" if not any(row.mode for row in table) else "phase\nmode", overflow="fold")
    rates = () if named else (f"{baseline}\nitems/s", f"{arm}\nitems/s")
    unit = "ms a step\nitems/s" if named else "ms a step"
    for name in ("batch", f"{baseline}\n{unit}", f"{arm}\n{unit}", *rates, "ratio"):
        grid.add_column(Text(name, justify="right"), justify="right", overflow="fold")
    grid.add_column("verdict", overflow="fold")
    grid.add_column("parity", overflow="fold")
    for row, last in _with_ends(table):
        workload = _stack(Text(row.workload, style="bold"), _dim(" · ".join(row.details)))
        axes = [_stack(Text(row.phase), _dim(row.mode)), Text(row.batch)]
        figures = _with_rates(row) if named else [*_steps(row, named=False), *_rates(row)]
        grid.add_row(workload, *axes, *figures, _ratio(row), _verdict(row), _parity(row), end_section=last)
    return grid


def _steps(row: Row, *, named: bool) -> list[Text]:
    return [_step(row, side, named) for side in ("baseline", "arm")]


def _rates(row: Row) -> list[Text]:
    sides = (row.contrast["sides"][side] for side in ("baseline", "arm"))
    return [Text(words.rate(own["items_per_s"]["median"])) for own in sides]


def _with_rates(row: Row, *, named: bool = True) -> list[Text]:
    return [
        _stack(step, _dim("" if rate.plain == words.NOTHING else f"{rate.plain}/s"))
        for step, rate in zip(_steps(row, named=named), _rates(row), strict=True)
    ]


def _narrow(table: Sequence[Row]) -> Table:
    grid = _grid()
    baseline, arm = heads(table) or ("baseline", "arm")
    grid.add_column("workload", overflow="fold", min_width=_widest_name(table))
    for name in (f"{baseline}\nms a step", f"{arm}\nms a step", "ratio"):
        grid.add_column(Text(name, justify="right"), justify="right", overflow="fold")
    grid.add_column("verdict\nparity", overflow="fold")
    named = heads(table) is None
    for row, _ in _with_ends(table):
        about = _dim(" · ".join(filter(None, [row.phase, row.mode, row.batch, *row.details])))
        arms = _with_rates(row, named=named)
        verdict = _stack(_verdict(row), _parity(row, short=True))
        grid.add_row(_stack(Text(row.workload, style="bold"), about), *arms, _ratio(row), verdict, end_section=True)
    return grid


def _widest_name(table: Sequence[Row]) -> int:
    """Of the workloads' names, without parameters: what a column must hold unfolded."""
    return max(len(row.workload.partition(" ")[0]) for row in table)


def _grid() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold", padding=(0, 1))


def _with_ends(table: Sequence[Row]) -> list[tuple[Row, bool]]:
    """Each row, and whether a rule follows it: where the workload changes."""
    names = [row.workload for row in table]
    return [(row, names[index : index + 2] != [row.workload] * 2) for index, row in enumerate(table)]


def _step(row: Row, side: str, named: bool) -> Text:
    cell: Mapping[str, Any] = getattr(row, side)
    figure = row.contrast["sides"][side]["step_ms"]
    style = "bold" if row.ahead == cell["label"] else ""
    label = [Text(cell["label"], style="italic")] if named else []
    return _stack(*label, Text(words.number(figure["median"]), style=style), _dim(words.interval(figure["ci"])))


def _ratio(row: Row) -> Text:
    one = row.contrast
    if one["ratio"] is None:
        return Text(words.NOTHING, style="dim")
    style = STYLES.get(one["verdict"], "")
    return _stack(Text(words.ratio(one["ratio"]), style=style), _dim(words.interval(one["ci"], words.ratio)))


def _verdict(row: Row) -> Text:
    one = row.contrast
    word = Text(f"{marks.SYMBOLS[one['verdict']]} {marks.spoken(one['verdict'])}", style=STYLES[one["verdict"]])
    ahead = f"{row.ahead} ahead" if row.ahead else "see below" if one["ratio"] is None else ""
    return _stack(word, _dim(ahead), Text(marks.caveat_marks(one["caveats"]), style="yellow"))


def _parity(row: Row, *, short: bool = False) -> Text:
    parity = row.contrast["parity"]
    word, style = _PARITY[parity["status"]]
    error = parity["max_rel_error"]
    if short:
        return Text(f"{word[:1]} parity {word[2:]}", style=style)
    return _stack(Text(word, style=style), _dim("" if error is None else f"{error:.1e}"))


def _verdicts(table: Sequence[Row]) -> list[tuple[str, Text]]:
    """Every row's reason in a sentence."""
    lines: list[tuple[str, Text]] = []
    for row in table:
        one = row.contrast
        arm = "" if heads(table) else f" {row.arm['label']} against {row.baseline['label']}"
        text = Text.assemble(
            f"{row.title}{arm}: ", (marks.spoken(one["verdict"]), STYLES[one["verdict"]]), f", {one['reason']}"
        )
        for caveat in one["caveats"]:
            text.append(f"; caveat {caveat['kind']}: {caveat['text']}", style="yellow")
        if one["confounders"]:
            text.append(f"; beside that they differ: {'; '.join(one['confounders'])}", style="yellow")
        lines.append(("verdicts" if not lines else "", text))
    return lines


def _notes(summary: Json) -> list[str]:
    return [words.clean(note) for note in summary["notes"]]


def _pairs(lines: Sequence[tuple[str, Text]]) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", width=9)
    grid.add_column(overflow="fold")
    for heading, text in lines:
        grid.add_row(heading, text)
    return Padding(grid, (0, 1))


def _stack(*lines: Text) -> Text:
    return Text("\n").join(line for line in lines if line.plain)


def _dim(text: str) -> Text:
    return Text("" if text == words.NOTHING else text, style="dim")
