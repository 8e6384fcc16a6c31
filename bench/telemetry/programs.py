"""Whose programs compute on the GPUs: the arms', known by their processes, and everybody else's.

NVML tells processes by their numbers in the host's first pid namespace. A harness that lives in another one cannot
match them, and then nothing is said of anybody. Standard library alone: the sampler process imports this.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.telemetry.usage import content

if TYPE_CHECKING:
    from bench.telemetry.nvml import Gpus
    from bench.telemetry.usage import Usage

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h
ELSEWHERE = "the driver tells processes by the host's numbers, which this process does not see"


class Share(NamedTuple):
    """What one arm has of one GPU at one moment; None is "not measured", never 0.

    arm_memory_bytes     of the GPU's memory, held by its processes
    arm_sm_util_percent  of the time since the last reading, some second, in which its kernels ran
    """

    arm_memory_bytes: int | None = None
    arm_sm_util_percent: int | None = None


class Programs:
    """Asked now and then who computes where; keeps who was no arm's.

    foreign  of each GPU by UUID, a program's number to its name, memory_bytes (most) and first_ns and last_ns, when it
             was seen (CLOCK_MONOTONIC); since `forget`
    null     why nobody can be called foreign; None where that can be told
    """

    def __init__(self, gpus: Gpus, *, root: Path = Path("/")) -> None:
        self.foreign: dict[str, dict[int, dict[str, Any]]] = {}
        self._elsewhere: str | None = None if _sees_host_numbers(root) else ELSEWHERE
        self.null: str | None = self._elsewhere
        self._gpus, self._root = gpus, root
        self._ours: set[int] = set()  # of all arms that ever were: one that is asked to end computes a moment longer

    def read(self, arms: Mapping[str, Usage]) -> Iterator[tuple[str, str, Share]]:
        """Ask; yields arm, GPU and what the arm has of it, where it has anything.

        arms  the readers of all that are watched
        """
        if self._elsewhere or not self._gpus.devices:
            return
        told, now_ns = self._gpus.programs(), time.monotonic_ns()
        owner: dict[int, str] = {}
        for arm, watched in arms.items():  # after the driver: a child that was born meanwhile is known
            owner |= dict.fromkeys(watched.pids(), arm)
        self.null = next((watched.unlisted for watched in arms.values() if watched.unlisted), None)
        self._ours.update(owner)
        self._acquit()
        for uuid, programs in told:
            shares: dict[str, Share] = {}
            for program in programs or ():
                if whose := owner.get(program.pid):
                    shares[whose] = _together(shares.get(whose), program.memory_bytes, program.sm_percent)
                elif program.pid not in self._ours and not self.null:
                    self._keep(uuid, program.pid, program.memory_bytes, now_ns)
            yield from ((whose, uuid, share) for whose, share in shares.items())

    def forget(self) -> None:
        """A block has ended."""
        self.foreign = {}

    def _acquit(self) -> None:
        """Who turns out to be an arm's was none of others."""
        for seen in self.foreign.values():
            for pid in self._ours & seen.keys():
                del seen[pid]

    def _keep(self, uuid: str, pid: int, memory_bytes: int | None, now_ns: int) -> None:
        name = (content(f"{self._root}/proc/{pid}/comm") or b"").decode(errors="replace").strip()
        if not name:  # gone already: whose it was cannot be found out
            return
        seen = self.foreign.setdefault(uuid, {})
        first = seen.setdefault(pid, {"name": name, "memory_bytes": memory_bytes, "first_ns": now_ns})
        first["last_ns"] = now_ns
        first["memory_bytes"] = max(first["memory_bytes"] or 0, memory_bytes or 0) or None


def _together(before: Share | None, memory_bytes: int | None, sm_percent: int | None) -> Share:
    if before is None:
        return Share(memory_bytes, sm_percent)
    both = zip(before, (memory_bytes, sm_percent), strict=True)
    return Share(*(right if left is None else left + (right or 0) for left, right in both))


def _sees_host_numbers(root: Path) -> bool:
    try:
        return os.stat(f"{root}/proc/self/ns/pid").st_ino == _INITIAL_PID_NAMESPACE  # noqa: PTH116
    except OSError:
        return False
