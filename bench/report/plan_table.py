"""A plan in a terminal: the comparisons with what they should take, the blocks in order, and what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from bench import text as words

if TYPE_CHECKING:
    from rich.console import Console

Json = Mapping[str, Any]


def render(document: Json, console: Console) -> None:
    """Print it."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold", padding=(0, 1))
    for column in ("", "comparison", "prologue", "a block", "spread", "blocks", "in all"):
        grid.add_column(column, justify="left" if column == "comparison" else "right", overflow="fold")
    for number, one in enumerate(document["comparisons"], start=1):
        name = Text.assemble((one["id"], "bold"), "\n", (" · ".join(arm["id"] for arm in one["arms"]), "dim"))
        spread = words.NOTHING if one["spread"] is None else f"{100 * one['spread']:.1f} %"
        lasting = [_time(one["prologue_s"]), _time(one["block_s"]), spread, _blocks(one), _time(one["seconds"])]
        grid.add_row(str(number), name, *lasting)
    console.print(Text.assemble((" bench plan ", "bold reverse"), f"  {words.clean(document['matrix'])}"))
    console.print(grid)
    for heading, text in _lines(document):
        console.print(Text.assemble((f" {heading:<9}", "bold"), words.clean(text)), soft_wrap=True)


def _lines(document: Json) -> list[tuple[str, str]]:
    budget = document["budget"]
    rule = (
        f"exactly {budget['blocks']} blocks"
        if budget["blocks"]
        else f"± {100 * budget['half_width']:g} %, {budget['least_blocks']} to {budget['max_blocks']} blocks"
    )
    each, total = _time(budget["per_comparison_s"]), _time(budget["total_s"])
    lines = [
        ("time", _total(document)),
        ("at most", f"the last block begins after {_time(document['seconds_at_most'])}"),
        ("budget", f"{rule}; {each} a comparison, {total} in all"),
        ("seed", f"{document['seed']}, {document['launcher']} launcher"),
    ]
    lines += _numbered("from", document, "from")
    lines += _numbered("unknown", document, "reason")
    for block, names in enumerate(_rounds(document), start=1):
        lines.append(("order" if block == 1 else "", f"block {block}: {' '.join(names)}"))
    return [*lines, *(("note", note) for note in document["notes"])]


def _numbered(heading: str, document: Json, key: str) -> list[tuple[str, str]]:
    """What is said of comparisons, once for all those of which the same is said."""
    said: dict[str, list[str]] = {}
    for number, one in enumerate(document["comparisons"], start=1):
        if one[key]:
            said.setdefault(one[key], []).append(str(number))
    return [(heading, f"{text} (of {', '.join(numbers)})") for text, numbers in said.items()]


def _total(document: Json) -> str:
    if document["seconds"] is not None:
        low, high = document["seconds_range"]
        return f"about {_time(document['seconds'])} ({_time(low)} to {_time(high)})"
    alone = document["measuring_s"]
    blocks = "" if alone is None else f" (its blocks alone: about {_time(alone)})"
    return f"unknown{blocks}; bench plan --pilot measures two blocks of each comparison and predicts from them"


def _rounds(document: Json) -> list[list[str]]:
    """The comparisons' numbers, block by block."""
    numbers = {one["id"]: str(number) for number, one in enumerate(document["comparisons"], start=1)}
    rounds: dict[int, list[str]] = {}
    for name, block in document["blocks"]:
        rounds.setdefault(block, []).append(numbers[name])
    return list(rounds.values())


def _blocks(one: Json) -> str:
    if one["blocks"] is None:
        return words.NOTHING
    low, high = one["blocks_range"]
    return str(one["blocks"]) if low == high else f"{one['blocks']} ({low} to {high})"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return words.NOTHING
    if seconds < 90:
        return f"{words.number(seconds, 2)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
