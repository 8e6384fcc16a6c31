"""What is read of one arm, whether it is a container or a local worker.

Standard library alone: the sampler process imports this.

Sources: proc_pid_status(5); Linux Documentation/scheduler/sched-stats.rst.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

SCOPES = ("cgroup", "process")
GONE = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH})  # the numbers of errors that say so


class Gone(Exception):  # noqa: N818 - the ordinary end of an arm
    """The container or process has exited: there is nothing more to read."""


class Reading(NamedTuple):
    """What was read at one moment; None is "not measured", never 0.

    cpu_ns                CPU time since the arm's start, user and system, ns; moves in steps of 1 to 4 ms in a cgroup
    memory_bytes          cgroup: charged to the group, page cache included; process: resident, summed over the tree
    memory_peak_bytes     the highest so far, every few seconds; of the group; process: of the worker alone (VmHWM)
    throttled             periods in which the group was held back by its CPU quota, since its start; every few seconds
    pressure_cpu_us       time in which some task of the group waited for a CPU, since its start, µs; every few seconds
    involuntary_switches  of all threads seen, since their start; read at the first and last reading of a block alone
    pressure_memory_us    as pressure_cpu_us, for memory; likewise pressure_io_us
    """

    cpu_ns: int | None = None
    memory_bytes: int | None = None
    memory_peak_bytes: int | None = None
    throttled: int | None = None
    pressure_cpu_us: int | None = None
    involuntary_switches: int | None = None
    pressure_memory_us: int | None = None
    pressure_io_us: int | None = None


class Usage(Protocol):
    """A reader of one arm.

    nulls     for each field that cannot be read why
    unlisted  why its processes cannot all be told; None where they can
    """

    nulls: dict[str, str]
    unlisted: str | None

    def read(self, *, switches: bool = False) -> Reading:
        """Read once; raises Gone after the arm's exit. `switches` adds the one field that is dear to read."""

    def glance(self) -> Any:
        """Read as little and as cheaply as can be, for `parse` to understand later; raises Gone."""

    def parse(self, glance: Any) -> Reading:
        """What a glance has seen."""

    def pids(self) -> list[int]:
        """The arm's processes now, by their numbers here: its first one always among them."""

    def close(self) -> None:
        """Close every descriptor."""


class OverThreads:
    """One counter of every thread of some processes, summed; one that has ended counts with its last value."""

    file: str  # in /proc/<pid>/task/<thread>

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc = str(root / "proc")
        self._counts: dict[tuple[int, str], int] = {}

    def read(self, pids: Iterable[int]) -> int | None:
        """The sum now; None where nothing was ever read."""
        for pid in pids:
            for thread in threads(self._proc, pid):
                count = self.parse(content(f"{self._proc}/{pid}/task/{thread}/{self.file}") or b"")
                if count is not None:
                    self._counts[pid, thread] = count
        return sum(self._counts.values()) if self._counts else None

    def parse(self, text: bytes) -> int | None:
        """The counter in the file's text, or None where it is not there."""
        raise NotImplementedError


class Switches(OverThreads):
    """Involuntary context switches.

    /proc/<pid>/status counts the main thread alone, so that every thread's own file is read: some 10 µs each.
    """

    file = "status"

    def parse(self, text: bytes) -> int | None:
        """The number in the last line."""
        return number(text, b"nonvoluntary_ctxt_switches:")


class Waits(OverThreads):
    """Time in which a thread could have run and had no processor, ns."""

    file = "schedstat"

    def parse(self, text: bytes) -> int | None:
        """The second of three numbers."""
        words = text.split()
        return int(words[1]) if len(words) > 1 else None


def threads(proc: str, pid: int) -> list[str]:
    """The threads of a process; none once it is gone."""
    try:
        return os.listdir(f"{proc}/{pid}/task")  # noqa: PTH208 - pathlib costs three times the reading
    except OSError:
        return []


def number(text: bytes, key: bytes) -> int | None:
    """The whole number after `key`, or None where the text does not hold it."""
    _, found, rest = text.partition(key)
    return int(rest.split(None, 1)[0]) if found else None


def content(file: str) -> bytes | None:
    """All of a small file, or None where it is gone."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError:
        return None
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return None
    finally:
        os.close(descriptor)
