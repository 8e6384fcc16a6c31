"""Which process made a container: told apart from every other, so that only what a dead one left is removed.

An owner is `machine/boot/pid namespace/pid/start`: an engine may serve several machines, and containers on them, and a
pid is given again. Where the machine or the namespace is another one, nothing is known, and nothing is removed.
"""

from __future__ import annotations

import os
from pathlib import Path

LABEL = "bench.harness"


def mine() -> str:
    """This process."""
    return "/".join((*_place(), str(os.getpid()), _started(os.getpid()) or "?"))


def is_gone(owner: str) -> bool:
    """Whether that process has surely ended; False for one that may live where this process cannot see."""
    machine, boot, namespace = _place()
    try:
        its_machine, its_boot, its_namespace, pid, started = owner.split("/")
        number = int(pid)
    except ValueError:
        return False
    if its_machine != machine:
        return False
    if its_boot != boot:
        return bool(machine)  # this machine, started anew since
    return its_namespace == namespace and _started(number) != started


def _place() -> tuple[str, str, str]:
    return _read("/etc/machine-id"), _read("/proc/sys/kernel/random/boot_id"), _namespace()


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]")
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When it started, in clock ticks since the boot: field 22 of proc(5)'s stat; None for no such process."""
    stat = _read(f"/proc/{pid}/stat")
    return stat.rpartition(")")[2].split()[19] if stat else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
