"""What a measurement says while it goes on, to whoever shows it: `bench.report.live` does, on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.measure.parity import Certificate
    from bench.measure.standing import Stand
    from bench.planning.schedule import Planned


class View(Protocol):
    """Called in the order of what happens; nothing that it does may take time from a measurement."""

    def plan(self, comparisons: Sequence[str], *, blocks: int, deadline: float) -> None:
        """The comparisons to come, how many blocks each takes at most, and when the budget ends (monotonic)."""

    def say(self, text: str) -> None:
        """One line that stays."""

    def stage(self, comparison: str, text: str) -> None:
        """What a comparison is doing before its first block."""

    def stand(self, standing: Mapping[str, Stand], done: Mapping[str, str]) -> None:
        """Where every comparison stands between two rounds of blocks, and why some are done."""

    def begin(self, planned: Planned) -> None:
        """A block begins, or one that was spoiled begins again."""

    def certified(self, comparison: str, arm: str, certificate: Certificate) -> None:
        """A contrast's certificate, good or bad."""

    def failed(self, record: Mapping[str, Any], outcome: Mapping[str, Any], log: str) -> None:
        """A worker failed; the end of its log is shown, and all of it is kept."""

    def kept(self, record: Mapping[str, Any]) -> None:
        """A block is on disk."""
