"""What a run says while it goes on, where no terminal shows a table."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from typing import Any

import pytest
from rich.console import Console

from bench.planning.schedule import Planned
from bench.report.live import View


@dataclass(frozen=True)
class Stood:
    """Valid blocks so far, and the half-width they give."""

    blocks: int
    half_width: float | None


def said(*, blocks: int, planned: Planned, spoiled: list[str]) -> list[str]:
    """The lines of one block, when so many of at most eight are in hand."""
    text = io.StringIO()
    view = View(Console(file=text))
    view.plan(["one"], blocks=8, deadline=time.monotonic() + 600)
    view.stand({"one": Stood(blocks=blocks, half_width=0.132)}, {})
    view.begin(planned)
    record: dict[str, Any] = {"comparison": "one", "block": planned.block, "wall_s": 10.0, "spoiled": spoiled}
    view.kept(record)
    return text.getvalue().splitlines()


@pytest.mark.parametrize(
    ("blocks", "planned", "expected"),
    [
        (0, Planned(comparison="one", block=0, attempt=0), "one: block 1 (0 of at most 8 so far), ± 13.2 %, "),
        (6, Planned(comparison="one", block=8, attempt=0), "one: block 9 (6 of at most 8 so far), ± 13.2 %, "),
        (6, Planned(comparison="one", block=8, attempt=2), "one: block 9 again, attempt 3 (6 of at most 8 so far), "),
    ],
)
def test_blocks_are_counted_by_what_is_in_hand(blocks: int, planned: Planned, expected: str) -> None:
    """Spoiled blocks are replaced, so that a ninth of at most eight is no contradiction."""
    (line,) = said(blocks=blocks, planned=planned, spoiled=[])
    assert line.startswith(expected)


def test_a_spoiled_block_is_one_line_that_promises_nothing() -> None:
    """Whether it is repeated, replaced or counted all the same is decided later."""
    planned = Planned(comparison="one", block=3, attempt=2)
    _, line = said(blocks=3, planned=planned, spoiled=["steal: the host kept 20 %", "heat: once", "switches: 900"])
    assert line == "one: block 4 was spoiled: steal: the host kept 20 % (and 2 more)"
