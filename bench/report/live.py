"""What the user sees while a run goes on: a live table on a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.planning.schedule import Planned

LOG_LINES = 3


@dataclass
class Progress:
    """One comparison's row."""

    state: str = "waiting"
    blocks: int = 0
    half_width: float | None = None
    walls_s: list[float] = field(default_factory=list)


class Standing(Protocol):
    """Valid blocks so far, and the half-width they give."""

    @property
    def blocks(self) -> int: ...  # noqa: D102
    @property
    def half_width(self) -> float | None: ...  # noqa: D102


class Certificate(Protocol):
    """What is told of a contrast's."""

    @property
    def status(self) -> str: ...  # noqa: D102
    @property
    def reason(self) -> str: ...  # noqa: D102
    @property
    def max_rel_error(self) -> float | None: ...  # noqa: D102
    @property
    def by(self) -> str | None: ...  # noqa: D102
    @property
    def made_at(self) -> str | None: ...  # noqa: D102
    @property
    def kept(self) -> bool: ...  # noqa: D102


class View:
    """Says what happens. Use as a context manager; without a terminal it prints one line an event."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._rows: dict[str, Progress] = {}
        self._most = 0
        self._deadline = math.inf
        self._live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def plan(self, comparisons: Sequence[str], *, blocks: int, deadline: float) -> None:
        """The comparisons to come, how many blocks each takes at most, and when the budget ends (monotonic)."""
        self._rows = {name: Progress() for name in comparisons}
        self._most, self._deadline = blocks, deadline
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=2, transient=True)
            self._live.start()

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(escape(text), soft_wrap=True)

    def stage(self, comparison: str, text: str) -> None:
        """What a comparison is doing before its first block."""
        self._rows[comparison].state = text
        self._plain(f"{comparison}: {text}")

    def stand(self, standing: Mapping[str, Standing], done: Mapping[str, str]) -> None:
        """Where every comparison stands between two rounds of blocks, and why some are done."""
        for name, row in self._rows.items():
            if name in done and row.state != "done":
                row.state = "done"
                self._plain(f"{name}: {done[name]}")
            row.blocks, row.half_width = standing[name].blocks, standing[name].half_width

    def begin(self, planned: Planned) -> None:
        """A block begins, or one that was spoiled begins again."""
        row = self._rows[planned.comparison]
        again = f" again, attempt {planned.attempt + 1}" if planned.attempt else ""
        row.state = f"measuring block {planned.block + 1}{again}"
        so_far = f"{row.blocks} of at most {self._most} so far"
        width, left = _width(row.half_width), _time(self._left_s())
        self._plain(f"{planned.comparison}: block {planned.block + 1}{again} ({so_far}), {width}, {left} left")

    def certified(self, comparison: str, arm: str, certificate: Certificate) -> None:
        """A contrast's certificate, good or bad."""
        if certificate.status == "passed":
            since = f", proved at {certificate.made_at} and kept" if certificate.kept else ""
            self.say(f"{comparison}: parity of {arm} passed, largest error {certificate.max_rel_error or 0:.1e}{since}")
        else:
            word = "FAILED" if certificate.status == "failed" else certificate.status
            what = f"parity of {arm} {word}" if certificate.by is None else f"{arm} is left out ({word})"
            self.say(f"{comparison}: {what}: {certificate.reason}")

    def failed(self, record: Mapping[str, Any], outcome: Mapping[str, Any], log: str) -> None:
        """A worker failed; the end of its log is shown, and all of it is kept."""
        self.say(f"{record['comparison']}: block {record['block'] + 1}: {outcome['reason']} (log: {outcome['log']})")
        for line in log.strip().splitlines()[-LOG_LINES:]:
            self.say(f"    {line[:200]}")

    def kept(self, record: Mapping[str, Any]) -> None:
        """A block is on disk."""
        row = self._rows[record["comparison"]]
        row.walls_s.append(record["wall_s"])
        row.blocks += 1
        if record["spoiled"]:
            first, *others = record["spoiled"]
            more = f" (and {len(others)} more)" if others else ""
            self.say(f"{record['comparison']}: block {record['block'] + 1} was spoiled: {first}{more}")

    def _plain(self, text: str) -> None:
        if not self.console.is_terminal:
            self.say(text)

    def _left_s(self) -> float:
        walls = [wall for row in self._rows.values() for wall in row.walls_s]
        blocks = sum(max(0, self._most - row.blocks) for row in self._rows.values() if row.state != "done")
        until = max(0.0, self._deadline - time.monotonic())
        return min(until, blocks * statistics.mean(walls)) if walls else math.inf

    def _render(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for head, justify in (("comparison", "left"), ("blocks", "right"), ("half-width", "right"), ("", "left")):
            table.add_column(head, justify=justify)  # type: ignore[arg-type]
        for name, row in self._rows.items():
            style = "green" if row.state == "done" else "" if row.state == "waiting" else "cyan"
            shown = _width(row.half_width)
            table.add_row(escape(name), f"{row.blocks}/{self._most}", shown, Text(row.state, style=style))
        return Group(table, Text(f"{_time(self._left_s())} left; Ctrl-C keeps all finished blocks", style="dim"))


def _width(width: float | None) -> str:
    return "± —" if width is None or not math.isfinite(width) else f"± {100 * width:.1f} %"


def _time(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "unknown time"
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"
