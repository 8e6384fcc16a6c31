"""What a local worker and its descendants use, from /proc.

Descriptors stay open, because they are read many times a second beside a measurement. Standard library alone: the
sampler process imports this.

Source: proc_pid_stat(5).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench.telemetry.usage import GONE, Gone, Reading, Switches, content, number, threads

_REFRESH_NS = 1_000_000_000
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def cpu_clock(pid: int) -> int:
    """The clock of a whole process's CPU time, CPUCLOCK_SCHED, as clock_getcpuclockid(3) makes it: in ns."""
    return (~pid << 3) | 2


class _Process:
    """One process of a tree, its files kept open: they stay bound to it even if its number is given to another."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        try:
            self._statm = os.open(f"/proc/{pid}/statm", os.O_RDONLY)
        except OSError:
            os.close(self._stat)
            raise
        self._clock: int | None = cpu_clock(pid)  # where stat has ticks of 10 ms

    def read(self) -> tuple[int, int]:
        """CPU ns with that of its reaped children, and resident bytes (0 once exited); raises OSError when gone."""
        stat = os.pread(self._stat, 4096, 0)
        words = stat[stat.rindex(b")") + 2 :].split(None, 16)
        reaped_ns = (int(words[13]) + int(words[14])) * _TICK_NS
        pages = int(os.pread(self._statm, 256, 0).split(None, 2)[1])
        return self._own_ns(words) + reaped_ns, pages * _PAGE_BYTES

    def _own_ns(self, words: list[bytes]) -> int:
        if self._clock is not None:
            try:
                return time.clock_gettime_ns(self._clock)
            except OSError:
                self._clock = None
        return (int(words[11]) + int(words[12])) * _TICK_NS

    def close(self) -> None:
        os.close(self._stat)
        os.close(self._statm)


class ProcessTree:
    """A worker and all its descendants (a compiling step forks compilers), from /proc.

    New descendants are looked for once a second; the CPU time of one that lived shorter is counted when its parent
    has waited for it. The worker itself is read first, so that no time is counted twice.
    """

    def __init__(self, pid: int) -> None:
        """Open the files of `pid`; raises Gone where there is no such process."""
        without = ("throttled", "pressure_cpu_us", "pressure_memory_us", "pressure_io_us")
        self.nulls = dict.fromkeys(without, "a local worker has no control group of its own")
        if not Path("/proc/thread-self/children").exists():
            self.nulls["descendants"] = "this kernel lists no children (CONFIG_PROC_CHILDREN)"
        self.unlisted = self.nulls.get("descendants")
        self._switches = Switches()
        self._cpu_ns = 0
        self._refreshed_ns = -_REFRESH_NS
        try:
            self._tree = [_Process(pid)]
        except OSError as error:
            raise Gone(f"process {pid} is gone") from error

    def read(self, *, switches: bool = False) -> Reading:
        """Read the tree once; raises Gone once the worker itself has ended and been waited for."""
        peak = self._refresh() if switches or time.monotonic_ns() - self._refreshed_ns >= _REFRESH_NS else None
        cpu_ns, memory = 0, 0
        for process in list(self._tree):
            try:
                used_ns, resident = process.read()
            except OSError as error:
                self._ended(process, error)
                continue
            cpu_ns += used_ns
            memory += resident
        self._cpu_ns = max(self._cpu_ns, cpu_ns)  # a child just waited for is in neither sum for one reading
        count = self._switches.read(process.pid for process in self._tree) if switches else None
        return Reading(
            cpu_ns=self._cpu_ns, memory_bytes=memory or None, memory_peak_bytes=peak, involuntary_switches=count
        )

    def glance(self) -> Reading:
        """Read the tree once, all that there is."""
        return self.read()

    def parse(self, glance: Reading) -> Reading:
        """What it is already."""
        return glance

    def _refresh(self) -> int | None:
        """Look for new descendants; returns the worker's own peak of resident memory, bytes."""
        self._refreshed_ns = time.monotonic_ns()
        known = {process.pid for process in self._tree}
        for pid in descendants(self._tree[0].pid):
            if pid not in known:
                try:
                    self._tree.append(_Process(pid))
                except OSError:
                    continue
        kibibytes = number(content(f"/proc/{self._tree[0].pid}/status") or b"", b"VmHWM:")
        return None if kibibytes is None else kibibytes * 1024

    def _ended(self, process: _Process, error: OSError) -> None:
        if error.errno not in GONE:
            raise error
        if process is self._tree[0]:
            raise Gone(f"process {process.pid} is gone") from error
        process.close()
        self._tree.remove(process)

    def pids(self) -> list[int]:
        """The worker and its descendants, by their numbers here."""
        if not self._tree:
            return []
        return [self._tree[0].pid, *descendants(self._tree[0].pid)]

    def close(self) -> None:
        """Close every descriptor."""
        for process in self._tree:
            process.close()
        self._tree.clear()


def descendants(pid: int) -> list[int]:
    """The children of a process, their children and so on; the worker's own number is not among them."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        for thread in threads("/proc", parent):
            children = [int(word) for word in (content(f"/proc/{parent}/task/{thread}/children") or b"").split()]
            waiting += children
            found += children
    return found
