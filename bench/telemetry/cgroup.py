"""What one arm uses of the machine: from its container's control group, or from /proc for a local worker.

Both readers keep their descriptors open and read them with one pread a file, because they are read many times a
second beside a measurement. Standard library alone: the sampler process imports this.

Sources: Linux Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst, accounting/psi.rst, proc_pid_stat(5).
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

SCOPES = ("cgroup", "process")
UNIFIED = ""
_GONE = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH})
_REFRESH_NS = 1_000_000_000
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Gone(Exception):  # noqa: N818 - the ordinary end of an arm
    """The container or process has exited: there is nothing more to read."""


class Reading(NamedTuple):
    """What was read at one moment; None is "not measured", never 0.

    cpu_ns                CPU time since the arm's start, user and system, ns; moves in steps of 1 to 4 ms in a cgroup
    memory_bytes          cgroup: charged to the group, page cache included; process: resident, summed over the tree
    memory_peak_bytes     the highest so far; cgroup: of the group; process: of the worker alone (VmHWM), about 1 Hz
    throttled             periods in which the group was held back by its CPU quota, since its start
    pressure_cpu_us       time in which some task of the group waited for a CPU, since its start, microseconds
    involuntary_switches  of all threads seen, since their start; read at the first and last reading of a block alone
    """

    cpu_ns: int | None = None
    memory_bytes: int | None = None
    memory_peak_bytes: int | None = None
    throttled: int | None = None
    pressure_cpu_us: int | None = None
    involuntary_switches: int | None = None


class Usage(Protocol):
    """A reader of one arm; `nulls` says for each field that cannot be read why."""

    nulls: dict[str, str]

    def read(self, *, switches: bool = False) -> Reading:
        """Read once; raises Gone after the arm's exit. `switches` adds the one field that is dear to read."""

    def close(self) -> None:
        """Close every descriptor."""


def usage(pid: int, scope: str) -> Usage:
    """The reader for an arm whose first process is `pid`, as seen from here.

    raises   Gone: there is no such process;  ValueError: the scope is neither of SCOPES
    """
    if scope == "cgroup":
        return ControlGroup(pid)
    if scope == "process":
        return ProcessTree(pid)
    raise ValueError(f"scope {scope!r} is unknown; choose {' or '.join(SCOPES)}")


# ---------------------------------------------------------------- where a control group's files are


def version(*, root: Path = Path("/")) -> str | None:
    """The layout of this machine's control groups: v1, v2, hybrid (v1 with a v2 mount beside it), or None."""
    mounts = _mounts(root)
    if UNIFIED not in mounts:
        return "v1" if mounts else None
    return "hybrid" if len(mounts) > 1 else "v2"


def directories(pid: int | str, *, root: Path = Path("/")) -> dict[str, Path]:
    """The folder of the group of `pid` in every hierarchy, by controller; "" is the unified one (v2).

    The group at a hierarchy's root is left out: its figures are the whole machine's.
    """
    found = {}
    mounts = _mounts(root)
    for controller, group in _groups(pid, root).items():
        if controller not in mounts:
            continue
        mount, top = mounts[controller]
        inside = top != "/" and (group + "/").startswith(top + "/")
        path = (group[len(top) :] if inside else group).strip("/")
        if path and ".." not in path.split("/"):
            found[controller] = mount / path
    return found


def _mounts(root: Path) -> dict[str, tuple[Path, str]]:
    """Where each controller is mounted, and which group that mount shows at its top."""
    found: dict[str, tuple[Path, str]] = {}
    try:
        lines = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        top, point = (re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), word) for word in left.split(" ")[3:5])
        for controller in [UNIFIED] if kind == "cgroup2" else options.split(","):
            found.setdefault(controller, (root / point.lstrip("/"), top))
    found.pop("rw", None)
    return found


def _groups(pid: int | str, root: Path) -> dict[str, str]:
    """The path of the group of `pid` in every hierarchy, by controller, from /proc/<pid>/cgroup."""
    found = {}
    for line in (root / "proc" / str(pid) / "cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = group
    return found


# ---------------------------------------------------------------- a container


class _Source(NamedTuple):
    """A file that holds a field: alone (`key` empty), or as the number after `key`, times `scale`."""

    controller: str
    file: str
    key: bytes = b""
    scale: int = 1


# For every field the places to look, first v1 and then v2: a hybrid machine has most of them in v1.
_SOURCES: dict[str, tuple[_Source, ...]] = {
    "cpu_ns": (_Source("cpuacct", "cpuacct.usage"), _Source(UNIFIED, "cpu.stat", b"usage_usec ", 1000)),
    "memory_bytes": (_Source("memory", "memory.usage_in_bytes"), _Source(UNIFIED, "memory.current")),
    "memory_peak_bytes": (_Source("memory", "memory.max_usage_in_bytes"), _Source(UNIFIED, "memory.peak")),
    "throttled": (_Source("cpu", "cpu.stat", b"nr_throttled "), _Source(UNIFIED, "cpu.stat", b"nr_throttled ")),
    "pressure_cpu_us": (_Source(UNIFIED, "cpu.pressure", b"total="),),  # its first line is "some"
}


class _Counter:
    """One number in one file that stays open."""

    def __init__(self, file: Path, source: _Source) -> None:
        self._descriptor = os.open(file, os.O_RDONLY)
        self._key, self._scale = source.key, source.scale
        try:
            self.read()
        except (OSError, ValueError):
            self.close()
            raise

    def read(self) -> int:
        """The number now; raises ValueError where the file does not hold it."""
        text = os.pread(self._descriptor, 4096, 0)
        if not self._key:
            return int(text)
        _, found, rest = text.partition(self._key)
        if not found:
            raise ValueError(f"has no {self._key.decode().strip(' =')}")
        return int(rest.split(None, 1)[0]) * self._scale

    def close(self) -> None:
        os.close(self._descriptor)


class ControlGroup:
    """The control group of a container, for cgroup v1, v2 and both mounted side by side."""

    def __init__(self, pid: int, *, root: Path = Path("/")) -> None:
        """Open what can be read of the group of `pid`; raises Gone where there is no such process."""
        self.nulls: dict[str, str] = {}
        self._counters: dict[str, _Counter] = {}
        self._switches = Switches(root)
        try:
            folders = directories(pid, root=root)
            own = directories("self", root=root)
        except OSError as error:
            raise Gone(f"process {pid} is gone") from error
        # A group that this process is in too holds more than the arm.
        folders = {name: folder for name, folder in folders.items() if own.get(name) != folder}
        self._members = [folder / "cgroup.procs" for folder in folders.values()]
        for name in _SOURCES:
            self._open(name, folders)

    def _open(self, field: str, folders: dict[str, Path]) -> None:
        reasons = []
        for source in _SOURCES[field]:
            if source.controller not in folders:
                hierarchy = source.controller or "unified"
                reasons.append(f"no {hierarchy} control group of its own")
                continue
            try:
                self._counters[field] = _Counter(folders[source.controller] / source.file, source)
                return
            except OSError as error:
                reasons.append(f"{source.file}: {error.strerror}")
            except ValueError as error:
                reasons.append(f"{source.file} {error}")
        self.nulls[field] = "; ".join(reasons)

    def read(self, *, switches: bool = False) -> Reading:
        """Read every kept descriptor once; raises Gone once the group has been removed."""
        values: dict[str, int | None] = {}
        for field, counter in self._counters.items():
            try:
                values[field] = counter.read()
            except (OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno in _GONE:
                    raise Gone("the control group was removed") from error
                self.nulls[field] = str(error)
        if switches:
            values["involuntary_switches"] = self._switches.read(self._pids())
            if values["involuntary_switches"] is None:
                self.nulls["involuntary_switches"] = "no member process could be read"
        return Reading(**values)

    def _pids(self) -> list[int]:
        for members in self._members:
            try:
                return [int(word) for word in members.read_text().split()]
            except OSError:
                continue
        return []

    def close(self) -> None:
        """Close every descriptor."""
        for counter in self._counters.values():
            counter.close()
        self._counters.clear()


# ---------------------------------------------------------------- a local worker


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
        # CPUCLOCK_SCHED of a whole process, as clock_getcpuclockid(3) makes it: ns, where stat has ticks of 10 ms.
        self._clock: int | None = (~pid << 3) | 2

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
        self.nulls = {
            "throttled": "a local worker has no control group of its own",
            "pressure_cpu_us": "a local worker has no control group of its own",
        }
        if not Path("/proc/thread-self/children").exists():
            self.nulls["descendants"] = "this kernel lists no children (CONFIG_PROC_CHILDREN)"
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
        kibibytes = _status(f"/proc/{self._tree[0].pid}/status", b"VmHWM:")
        return None if kibibytes is None else kibibytes * 1024

    def _ended(self, process: _Process, error: OSError) -> None:
        if error.errno not in _GONE:
            raise error
        if process is self._tree[0]:
            raise Gone(f"process {process.pid} is gone") from error
        process.close()
        self._tree.remove(process)

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
        for thread in _threads("/proc", parent):
            text = _content(f"/proc/{parent}/task/{thread}/children")
            children = [int(word) for word in (text or b"").split()]
            waiting += children
            found += children
    return found


class Switches:
    """Involuntary context switches, summed over threads, those that have ended included with their last count.

    /proc/<pid>/status counts the main thread alone, so that every thread's own file is read: some 10 µs each.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc = str(root / "proc")
        self._counts: dict[tuple[int, str], int] = {}

    def read(self, pids: Iterable[int]) -> int | None:
        """The sum now; None where nothing was ever read."""
        for pid in pids:
            for thread in _threads(self._proc, pid):
                count = _status(f"{self._proc}/{pid}/task/{thread}/status", b"nonvoluntary_ctxt_switches:")
                if count is not None:
                    self._counts[pid, thread] = count
        return sum(self._counts.values()) if self._counts else None


def _threads(proc: str, pid: int) -> list[str]:
    try:
        return os.listdir(f"{proc}/{pid}/task")  # noqa: PTH208 - pathlib costs three times the reading
    except OSError:
        return []


def _status(file: str, key: bytes) -> int | None:
    _, found, rest = (_content(file) or b"").partition(key)
    return int(rest.split(None, 1)[0]) if found else None


def _content(file: str) -> bytes | None:
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
