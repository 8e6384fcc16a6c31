"""A validation as a table for the terminal and as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from bench.estimate import names
from bench.validate.row import MARKS

if TYPE_CHECKING:
    from rich.console import Console

    from bench.validate.suite import Report

_COLOURS = {"passed": "green", "undecided": "yellow", "failed": "red"}
_COLUMNS = ("test", "n", "found", "95 % interval", "goal", "")


def print_table(report: Report, console: Console) -> None:
    """One line a test, with a mark and a word."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column == "n" else "left")
    for row in report.rows:
        mark = f"[{_COLOURS[row.outcome]}]{MARKS[row.outcome]} {row.outcome}[/]"
        table.add_row(row.name, f"{row.n:,}", row.found, row.interval, row.goal, mark)
    console.print(table)
    for row in report.rows:
        if row.outcome == "undecided":
            console.print(f"undecided: {row.name}: {row.detail}", highlight=False, markup=False)
    for part, reason in report.skipped.items():
        console.print(f"not tested: {part}, because {reason}", highlight=False)


def markdown(report: Report) -> str:
    """The same as a Markdown table, details below it."""
    lines = [f"| {' | '.join(_COLUMNS[:-1])} | verdict |", "|---|---:|---:|---:|---|---|"]
    for row in report.rows:
        verdict = "**failed**" if row.outcome == "failed" else row.outcome
        lines.append(f"| {row.name} | {row.n:,} | {row.found} | {row.interval} | {row.goal} | {verdict} |")
    details = [f"- {row.name}: {row.detail}" for row in report.rows if row.detail]
    lines += ["", f"{report.told}."]
    lines += ["", *details] if details else []
    lines += ["", *(f"Not tested: {part}, because {reason}." for part, reason in report.skipped.items())]
    facts = report.facts
    code = names.code(facts["commit"], facts["environment"])
    lines.append(f"\n`bench validate --{facts['kind']}`, started {facts['started_at']}, "
                 f"{facts['seconds'] / 60:.0f} min, seed {facts['seed']}, {code}.")  # fmt: skip
    return "\n".join(lines) + "\n"
