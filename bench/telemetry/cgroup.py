"""The control groups of this machine, v1, v2 or both: where their files are, and what a container uses.

Descriptors stay open and are read with one pread a file, because they are read many times a second beside a
measurement. Standard library alone: the sampler process imports this.

Sources: Linux Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst, accounting/psi.rst.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from os import pread
from pathlib import Path
from time import monotonic_ns
from typing import NamedTuple

from bench.telemetry.usage import GONE, Gone, Reading, Switches

UNIFIED = ""


# ---------------------------------------------------------------- where a control group's files are


def version(*, root: Path = Path("/")) -> str | None:
    """The layout of this machine's control groups: v1, v2, hybrid (v1 with a v2 mount beside it), or None."""
    mounts = _mounts(root)
    if UNIFIED not in mounts:
        return "v1" if mounts else None
    return "hybrid" if len(mounts) > 1 else "v2"


def directories(pid: int | str, *, root: Path = Path("/"), top: bool = False) -> dict[str, Path]:
    """The folder of the group of `pid` in every hierarchy, by controller; "" is the unified one (v2).

    The group at a hierarchy's root is left out unless `top` is given: its figures are the whole machine's.
    """
    found = {}
    mounts = _mounts(root)
    for controller, group in _groups(pid, root).items():
        if controller not in mounts:
            continue
        mount, shown = mounts[controller]
        inside = shown != "/" and (group + "/").startswith(shown + "/")
        path = (group[len(shown) :] if inside else group).strip("/")
        if (path or top) and ".." not in path.split("/"):
            found[controller] = mount / path
    return found


def lineage(folder: Path) -> Iterator[Path]:
    """A group's folder and those of all groups above it that can be seen."""
    while (folder / "cgroup.procs").exists():
        yield folder
        folder = folder.parent


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


class Source(NamedTuple):
    """A file that holds a field: alone (`key` empty), or as the number after `key`, times `scale`."""

    controller: str
    file: str
    key: bytes = b""
    scale: int = 1


# For every field the places to look, first v1 and then v2: a hybrid machine has most of them in v1.
_SOURCES: dict[str, tuple[Source, ...]] = {
    "cpu_ns": (Source("cpuacct", "cpuacct.usage"), Source(UNIFIED, "cpu.stat", b"usage_usec ", 1000)),
    "memory_bytes": (Source("memory", "memory.usage_in_bytes"), Source(UNIFIED, "memory.current")),
    "memory_peak_bytes": (Source("memory", "memory.max_usage_in_bytes"), Source(UNIFIED, "memory.peak")),
    "throttled": (Source("cpu", "cpu.stat", b"nr_throttled "), Source(UNIFIED, "cpu.stat", b"nr_throttled ")),
    "pressure_cpu_us": (Source(UNIFIED, "cpu.pressure", b"total="),),  # its first line is "some"
    "pressure_memory_us": (Source(UNIFIED, "memory.pressure", b"total="),),
    "pressure_io_us": (Source(UNIFIED, "io.pressure", b"total="),),
}


# What is read every time; the rest moves slowly or is looked at over a whole block.
_OFTEN = ("cpu_ns", "memory_bytes")
_NUMBER_BYTES = 64  # holds a number, and the first line of cpu.stat, which is the one; a small buffer is cheap
_SELDOM_NS = 5_000_000_000


class Counter:
    """One number in one file that stays open."""

    def __init__(self, file: Path, source: Source) -> None:
        """Read it once; raises OSError or ValueError where it cannot be read."""
        self.descriptor = os.open(file, os.O_RDONLY)
        self._key, self._scale = source.key, source.scale
        try:
            self.parse(self.text())
        except (OSError, ValueError):
            self.close()
            raise

    def text(self) -> bytes:
        """What the file says now."""
        return pread(self.descriptor, 4096, 0)

    def parse(self, text: bytes) -> int:
        """The number in it; raises ValueError where it does not hold one."""
        if not self._key:
            return int(text)
        _, found, rest = text.partition(self._key)
        if not found:
            raise ValueError(f"has no {self._key.decode().strip(' =')}")
        return int(rest.split(None, 1)[0]) * self._scale

    def close(self) -> None:
        """Close its descriptor."""
        os.close(self.descriptor)


class ControlGroup:
    """The control group of a container, for cgroup v1, v2 and both mounted side by side."""

    def __init__(self, pid: int, *, root: Path = Path("/")) -> None:
        """Open what can be read of the group of `pid`; raises Gone where there is no such process."""
        self.nulls: dict[str, str] = {}
        self._pid = pid
        self._counters: dict[str, Counter] = {}
        self._parsers: dict[str, Callable[[bytes], int]] = {}  # which outlive the counters
        self._due_ns = 0
        self._switches = Switches(root)
        try:
            folders = directories(pid, root=root)
            own = directories("self", root=root)
        except OSError as error:
            raise Gone(f"process {pid} is gone") from error
        # A group that this process is in too holds more than the arm.
        folders = {name: folder for name, folder in folders.items() if own.get(name) != folder}
        self._members = [folder / "cgroup.procs" for folder in folders.values()]
        unseen = not any(os.access(members, os.R_OK) for members in self._members)
        self.unlisted = "no control group of an arm can be seen, and so not who is in it" if unseen else None
        for name in _SOURCES:
            self._open(name, folders)
        often = [self._counters[name].descriptor for name in _OFTEN if name in self._counters]
        self._often = (often[0], often[1]) if len(often) == len(_OFTEN) else None

    def _open(self, field: str, folders: dict[str, Path]) -> None:
        reasons = []
        for source in _SOURCES[field]:
            if source.controller not in folders:
                hierarchy = source.controller or "unified"
                reasons.append(f"no {hierarchy} control group of its own")
                continue
            try:
                counter = Counter(folders[source.controller] / source.file, source)
                self._counters[field], self._parsers[field] = counter, counter.parse
                return
            except OSError as error:
                reasons.append(f"{source.file}: {error.strerror}")
            except ValueError as error:
                reasons.append(f"{source.file} {error}")
        self.nulls[field] = "; ".join(reasons)

    def read(self, *, switches: bool = False) -> Reading:
        """Read everything once; raises Gone once the group has been removed."""
        self._due_ns = 0
        reading = self.parse(self.glance())
        if not switches:
            return reading
        count = self._switches.read(self.pids())
        if count is None:
            self.nulls["involuntary_switches"] = "no member process could be read"
        return reading._replace(involuntary_switches=count)

    def glance(self) -> Sequence[bytes] | dict[str, bytes]:
        """What the files say of CPU time and memory, in the order of _OFTEN; every few seconds all, by field.

        It runs with cold caches many times a second, so that every step in it costs several times what it seems to.
        """
        if self._often and monotonic_ns() < self._due_ns:
            try:
                cpu, memory = self._often
                return pread(cpu, _NUMBER_BYTES, 0), pread(memory, _NUMBER_BYTES, 0)
            except OSError:
                pass  # which of them it was is found out below
        return self._texts()

    def _texts(self) -> dict[str, bytes]:
        self._due_ns = monotonic_ns() + _SELDOM_NS
        texts = {}
        for field, counter in self._counters.items():
            try:
                texts[field] = counter.text()
            except OSError as error:
                if error.errno in GONE:
                    raise Gone("the control group was removed") from error
                self.nulls[field] = str(error)
        return texts

    def parse(self, glance: Sequence[bytes] | dict[str, bytes]) -> Reading:
        """The numbers in it."""
        texts = glance if isinstance(glance, dict) else dict(zip(_OFTEN, glance, strict=True))
        values = {}
        for field, text in texts.items():
            try:
                values[field] = self._parsers[field](text)
            except ValueError as error:
                self.nulls[field] = str(error)
        return Reading(**values)

    def pids(self) -> list[int]:
        """The members of the group, by their numbers here; the first process alone once they cannot be read."""
        for members in self._members:
            try:
                return [self._pid, *(int(word) for word in members.read_text().split())]
            except OSError:
                continue
        return [self._pid]

    def close(self) -> None:
        """Close every descriptor."""
        for counter in self._counters.values():
            counter.close()
        self._counters.clear()
