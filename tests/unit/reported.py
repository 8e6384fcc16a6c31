"""The SYNTHETIC runs that reports are made of in tests, and a report in each of its formats."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from synthetic_run import COMPARISONS, block, outcome, run_json

from bench.report import export, markdown, table

LINEAR, TRAIN, INFER = COMPARISONS


def shown(document: dict[str, Any], width: int) -> str:
    out = io.StringIO()
    table.render(document, Console(file=out, width=width, force_terminal=False, color_system=None))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def formats(document: dict[str, Any]) -> dict[str, str]:
    return {
        "table at 120": shown(document, 120),
        "table at 80": shown(document, 80),
        "markdown": markdown.render(document),
        "csv": export.csv_text(document),
        "json": export.json_text(document),
    }


def contrast(document: dict[str, Any], comparison: str = TRAIN) -> dict[str, Any]:
    return next(one for one in document["contrasts"] if one["comparison"] == comparison)


def only(comparison: str) -> dict[str, Any]:
    """run.json with this comparison alone."""
    run = run_json()
    run["comparisons"] = {comparison: run["comparisons"][comparison]}
    return run


def whole_block(comparison: str, number: int, **changes: Any) -> dict[str, Any]:
    return block(comparison, number, {arm: outcome(arm) for arm in COMPARISONS[comparison][2]}, **changes)
