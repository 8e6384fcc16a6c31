"""What this process may use of the machine: CPU time, memory, disk.

Sources: Linux Documentation/admin-guide/cgroup-v2.rst, scheduler/sched-bwc.rst (quota, period, nr_throttled),
filesystems/proc.rst (meminfo).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench import paths
from bench.errors import StorageFailed
from bench.machine.check.findings import ASK_THE_HOST, Finding, Level, Machine
from bench.machine.describe import read_line, read_text
from bench.telemetry import cgroup

GIB = 2**30
# The arms of the published default matrix peak at 0.58 and 0.42 GB, and are up together.
MEMORY_BYTES = 1 * GIB
# Wheels, both environments and MNIST took 3.1 GB in 42,791 files; after that a run adds little.
FIRST_BYTES, FIRST_FILES = 4 * GIB, 50_000
LATER_BYTES, LATER_FILES = 1 * GIB, 1_000


def quota(machine: Machine) -> Finding:
    """Whether a control group of this process, or one above it, may use only so much CPU time."""
    say = partial(Finding, name="quota", why="A quota stops a process until its next period, in the middle of a step.")
    if not any(_lineage(machine.root, controller) for controller in ("cpu", cgroup.UNIFIED)):
        return say(level="unknown", found="no control group of this process can be seen", cure=ASK_THE_HOST)
    limits = sorted(_quotas(machine.root))
    if not limits:
        return say(level="ok", found="none")
    cpus, file = limits[0]
    found = f"{cpus:.2f} CPUs of the {len(machine.usable)} usable, {_throttled(machine.root)} periods throttled so far"
    off = "max" if file.name == "cpu.max" else "-1"
    cure = f"echo {off} | sudo tee /{file.relative_to(machine.root)}"
    if not (file.parents[1] / "cgroup.procs").exists():  # the top of what can be seen: its setter is outside
        cure = "Start this container without --cpus and --cpu-quota; give it --cpuset-cpus."
    return say(level="fail" if cpus < len(machine.usable) else "note", found=found, cure=cure)


def _quotas(root: Path) -> Iterator[tuple[float, Path]]:
    """Every quota in force, in CPUs, with the file that sets it."""
    for folder in _lineage(root, "cpu"):
        allowed, period = (read_line(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if allowed and period and int(allowed) > 0:
            yield int(allowed) / int(period), folder / "cpu.cfs_quota_us"
    for folder in _lineage(root, cgroup.UNIFIED):
        allowed, period = (read_line(folder / "cpu.max") or "max 100000").split()
        if allowed != "max":
            yield int(allowed) / int(period), folder / "cpu.max"


def _throttled(root: Path) -> int:
    """Periods in which these groups were held back, since they were made."""
    folders = [folder for name in ("cpu", cgroup.UNIFIED) for folder in _lineage(root, name)]
    stats = "\n".join(read_text(folder / "cpu.stat") or "" for folder in folders)
    return sum(map(int, re.findall(r"^nr_throttled (\d+)", stats, re.M)))


def _lineage(root: Path, controller: str) -> list[Path]:
    """The group of this process and every one above it, as far as they can be seen."""
    try:
        folder = cgroup.directories("self", root=root, top=True).get(controller)
    except OSError:
        return []
    return list(cgroup.lineage(folder)) if folder else []


def memory(machine: Machine) -> Finding:
    """Whether all arms of a block fit into memory at once."""
    say = partial(Finding, name="memory", why="All arms of a block are in memory at once; what does not fit is killed.")
    available = _kibibytes(machine, "MemAvailable")
    if available is None:
        return say(level="unknown", found="/proc/meminfo has no MemAvailable", cure="free -m")
    room = min([available * 1024, *_memory_limits(machine.root)])
    level: Level = "fail" if room < MEMORY_BYTES else "warn" if room < 2 * MEMORY_BYTES else "ok"
    cure = "Close what holds memory: ps -eo pid,rss,comm --sort=-rss | head shows it."
    return say(level=level, found=f"{room / GIB:.1f} GiB available", cure=None if level == "ok" else cure)


def _memory_limits(root: Path) -> Iterator[int]:
    for controller, name in (("memory", "memory.limit_in_bytes"), (cgroup.UNIFIED, "memory.max")):
        limits = [read_line(folder / name) for folder in _lineage(root, controller)]
        yield from (int(limit) for limit in limits if limit and limit != "max")


def swap(machine: Machine) -> Finding:
    """Whether memory of the arms may lie on the disk."""
    say = partial(Finding, name="swap", why="A page that was swapped out costs a read from the disk inside a step.")
    total, free = _kibibytes(machine, "SwapTotal"), _kibibytes(machine, "SwapFree")
    if total is None or free is None:
        return say(level="unknown", found="/proc/meminfo has no SwapTotal", cure="swapon --show")
    if total == 0:
        return say(level="ok", found="none")
    if total > free:
        enough = (_kibibytes(machine, "MemAvailable") or 0) > total - free
        cure = "sudo swapoff -a" if enough else "Close what holds memory, then switch swap off (sudo swapoff -a)."
        return say(level="warn", found=f"{(total - free) / 1024:.0f} MiB in use", cure=cure)
    swappiness, cure = read_line(machine.root / "proc/sys/vm/swappiness"), "sudo sysctl -w vm.swappiness=1"
    if swappiness is None:
        return say(level="unknown", found="empty, and the kernel does not tell vm.swappiness", cure=cure)
    found = f"empty, swappiness {swappiness}"
    return say(level="ok", found=found) if int(swappiness) <= 10 else say(level="note", found=found, cure=cure)


def _kibibytes(machine: Machine, name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB", read_text(machine.root / "proc/meminfo") or "", re.M)
    return int(found[1]) if found else None


def disk(_: Machine) -> Finding:
    """Whether the cache folder has room for wheels, environments and compile caches."""
    say = partial(Finding, name="disk", why="A disk that fills up ends the run in the middle of a block.")
    cure = "Free space in the cache folder, or set BENCH_CACHE to a folder on a larger disk."
    try:
        cache = paths.cache_root()
        room, filled = os.statvfs(cache), any((cache / "wheelhouse").glob("*"))
    except StorageFailed as failed:
        return say(level="fail", found=f"the cache folder cannot be used: {failed.reason}", cure=cure)
    except OSError as error:
        return say(level="fail", found=f"the cache folder cannot be used: {error.strerror}", cure=cure)
    size, files = (LATER_BYTES, LATER_FILES) if filled else (FIRST_BYTES, FIRST_FILES)
    free = room.f_bavail * room.f_frsize
    scarce = min(free / size, room.f_favail / files if room.f_files else free / size)  # btrfs counts no inodes
    level: Level = "fail" if scarce < 1 else "warn" if scarce < 2 else "ok"
    inodes = f", {room.f_favail:,} inodes" if room.f_files else ""
    return say(level=level, found=f"{free / GIB:.1f} GiB{inodes} free", cure=None if level == "ok" else cure)
