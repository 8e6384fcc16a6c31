"""Two runs side by side, for a terminal and as Markdown: one row a cell, then reasons, what changed, what is unseen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bench import text as words
from bench.report import marks
from bench.report.markdown import escape

Json = Mapping[str, Any]

STYLES = {"slower": "bold dark_orange", "faster": "bold green", "equivalent": "bold cyan", "inconclusive": "yellow"}
SYMBOLS = {**marks.SYMBOLS, "missing": "·"}
_DIRECTION = "change: time after ÷ time before, above 1 is slower; 95 % intervals, Holm over all tests of both runs"
_COLUMNS = ("cell", "wall ms", "CPU ms", "change", "verdict")
_LEFT = ("cell", "verdict")


def render(document: Json, console: Console) -> None:
    """Print the table, what each verdict rests on, and what it cannot show."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold", padding=(0, 1))
    for column in _COLUMNS:
        grid.add_column(column, justify="left" if column in _LEFT else "right", overflow="fold")
    for one in document["cells"]:
        name = Text.assemble((one["comparison"], "bold"), "\n", (one["label"], ""))
        verdict = Text(_verdict(one), style=STYLES.get(one["verdict"], "dim"))
        grid.add_row(name, _both(one["step_ms"]), _both(one["cpu_ms"]), Text("\n".join(_change(one))), verdict)
    parts: list[RenderableType] = [Text.assemble((" bench compare ", "bold reverse"), f"  {_title(document)}"), grid]
    for heading, lines in _sections(document):
        parts += [_listed(heading, lines), Text()]
    console.print(Group(*parts[:-1]))


def markdown(document: Json) -> str:
    """The same as a page of GitHub Markdown."""
    parts = [f"# {escape(_title(document))}"]
    rows = [list(_COLUMNS), ["---" if column in _LEFT else "---:" for column in _COLUMNS]]
    for one in document["cells"]:
        change, interval = _change(one)
        figure = f"{change} ({interval})" if interval else change
        cells = [f"{one['comparison']} {one['label']}", _both(one["step_ms"]), _both(one["cpu_ms"]), figure]
        rows.append([escape(text) for text in (*cells, _verdict(one))])
    parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    for heading, lines in _sections(document):
        parts.append(f"## {heading[:1].upper()}{heading[1:]}\n\n" + "\n".join(f"- {escape(line)}" for line in lines))
    return "\n\n".join(parts) + "\n"


def outcome(document: Json) -> str | None:
    """What the gate says, in a sentence; None where none was asked for."""
    limit = document["fail_above"]
    if limit is None:
        return None
    above = [one for one in document["cells"] if one["above"]]
    if above:
        names = ", ".join(one["id"] for one in above)
        return f"{len(above)} of {len(document['cells'])} cells are slower by more than {100 * limit:g} %: {names}"
    blind = sum(one["resolution"] is None or one["resolution"] > limit for one in document["cells"])
    unseen = f"; {blind} of {len(document['cells'])} cells could not have shown one" if blind else ""
    return f"no slowdown of more than {100 * limit:g} % is shown{unseen}"


def _title(document: Json) -> str:
    before, after = document["before"], document["after"]
    return words.clean(f"{before['id']} ({before['started_at']}) → {after['id']} ({after['started_at']})")


def _sections(document: Json) -> Iterator[tuple[str, Sequence[str]]]:
    """Headings with their lines; empty ones are left out."""
    reasons = [f"{one['comparison']} {one['label']}: {one['verdict']}, {one['reason']}" for one in document["cells"]]
    changed = list(document["changed"])
    for one in document["comparisons"]:
        changed += [f"{one['id']}: {text}" for text in one["changed"]]
    for one in document["cells"]:
        changed += [f"{one['comparison']} {one['label']}: {text}" for text in one["changed"]]
    sentence = outcome(document)
    sections = {
        "verdicts": reasons,
        "changed": changed or ["nothing on record"],
        "not seen": document["unseen"],
        "reading": [_DIRECTION],
        "gate": [sentence] if sentence else [],
    }
    for heading, lines in sections.items():
        if lines:
            yield heading, [words.clean(line) for line in lines]


def _verdict(one: Json) -> str:
    return f"{SYMBOLS[one['verdict']]} {one['verdict']}" + (" (past the limit)" if one["above"] else "")


def _change(one: Json) -> tuple[str, str]:
    """The change and its interval."""
    interval = words.interval(one["ci"], words.ratio)
    return words.ratio(one["change"]), "" if interval == words.NOTHING else interval


def _both(figure: Json | None) -> str:
    if figure is None:
        return words.NOTHING
    return f"{words.number(figure['before'])} → {words.number(figure['after'])}"


def _listed(heading: str, lines: Sequence[str]) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", width=9)
    grid.add_column(overflow="fold")
    for index, line in enumerate(lines):
        grid.add_row(heading if index == 0 else "", Text(line))
    return Padding(grid, (0, 1))
