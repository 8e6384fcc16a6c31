"""Whose programs compute on the GPUs: the arms', known by their processes, and everybody else's.

NVML tells processes by their numbers in the host's first pid namespace. A harness that lives in another one cannot
match them, and then nothing is said of anybody. Standard library alone: the sampler process imports this.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.telemetry.usage import content

if TYPE_CHECKING:
    from bench.telemetry.nvml import Gpus

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
    """

    def __init__(self, gpus: Gpus, *, root: Path = Path("/")) -> None:
        self.foreign: dict[str, dict[int, dict[str, Any]]] = {}
        self.null: str | None = None if _sees_host_numbers(root) else ELSEWHERE
        self._gpus, self._root = gpus, root
        self._ours: set[int] = set()  # of all arms that ever were: one that is asked to end computes a moment longer

    def told_of(self, pids: Iterable[int]) -> None:
        """These processes are an arm's."""
        self._ours.update(pids)

    def read(self, arms: Mapping[str, Iterable[int]]) -> Iterator[tuple[str, str, Share]]:
        """Ask; yields arm, GPU and what the arm has of it, where it has anything.

        arms  the processes of every arm that is watched
        """
        if self.null or not self._gpus.devices:
            return
        owner = {pid: arm for arm, pids in arms.items() for pid in pids}
        self._ours.update(owner)
        now_ns = time.monotonic_ns()
        for uuid, programs in self._gpus.programs():
            shares: dict[str, Share] = {}
            for program in programs or ():
                if arm := owner.get(program.pid):
                    shares[arm] = _together(shares.get(arm), program.memory_bytes, program.sm_percent)
                elif program.pid not in self._ours:
                    self._keep(uuid, program.pid, program.memory_bytes, now_ns)
            yield from ((arm, uuid, share) for arm, share in shares.items())

    def forget(self) -> None:
        """A block has ended."""
        self.foreign = {}

    def _keep(self, uuid: str, pid: int, memory_bytes: int | None, now_ns: int) -> None:
        seen = self.foreign.setdefault(uuid, {})
        if pid not in seen:
            name = (content(f"{self._root}/proc/{pid}/comm") or b"").decode(errors="replace").strip()
            seen[pid] = {"name": name or None, "memory_bytes": memory_bytes, "first_ns": now_ns}
        seen[pid]["last_ns"] = now_ns
        seen[pid]["memory_bytes"] = max(seen[pid]["memory_bytes"] or 0, memory_bytes or 0) or None


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
