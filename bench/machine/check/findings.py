"""What `bench check` says of a machine: one finding a probe, and where its probes look."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Level = Literal["ok", "note", "warn", "fail", "unknown"]
ASK_THE_HOST = "Ask whoever runs the host: it cannot be seen from here."
WORST_FIRST: tuple[Level, ...] = ("fail", "warn", "unknown", "note", "ok")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one probe found.

    level   fail: a measurement here cannot be trusted; warn: its intervals grow; note: worth knowing beside a result;
            unknown: could not be read here, `found` says why
    why     what it does to a measurement
    cure    one command to paste, or one sentence (it ends with a full stop) where no command can help; None when ok
    """

    name: str
    level: Level
    found: str
    why: str
    cure: str | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where probes look: the tree that holds proc and sys, and the CPUs of the arms, of the harness, and of neither."""

    root: Path
    arms: frozenset[int]
    control: frozenset[int]
    idle: frozenset[int] = frozenset()

    @property
    def cpus(self) -> Path:
        """The folder of /sys with every CPU."""
        return self.root / "sys/devices/system/cpu"

    @property
    def spare(self) -> frozenset[int]:
        """The CPUs of the harness that no arm uses."""
        return self.control - self.arms

    @property
    def usable(self) -> frozenset[int]:
        """All that this process may use."""
        return self.arms | self.control | self.idle
