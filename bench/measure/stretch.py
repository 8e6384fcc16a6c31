"""One stretch of slices: what workers said of them and what the kernel counted meanwhile, as facts for the gates."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.machine import peak
from bench.matrix.model import spec_of
from bench.measure import gates
from bench.telemetry.disturbances import Watch, Watched
from bench.telemetry.process_tree import cpu_clock

if TYPE_CHECKING:
    from bench.launch.group import Group
    from bench.matrix.comparison import Arm
    from bench.telemetry import Sampler
    from workloads.contract import Cell


@dataclass(kw_only=True)
class _Tally:
    """What an arm's slices, and those of the others, add up to; times in ns, CPU times of its whole process.

    first_cpu_ns, last_cpu_ns  as the worker said at its first slice's start and its last slice's end
    idle_ns, idle_cpu_ns       of the others' slices, and what it used in them; None once it could not be read
    """

    compiled_before: int
    slice_ns: int = 0
    slice_cpu_ns: int = 0
    involuntary_switches: int = 0
    voluntary_switches: int = 0
    compilations: int = 0
    first_cpu_ns: int | None = None
    last_cpu_ns: int = 0
    idle_ns: int = 0
    idle_cpu_ns: int | None = 0
    least_step_ns: float = math.inf

    def measured(self, answer: Mapping[str, Any], steps: int) -> None:
        self.slice_ns += answer["end_ns"] - answer["start_ns"]
        self.slice_cpu_ns += answer["cpu_ns"]
        self.involuntary_switches += answer["involuntary_switches"]
        self.voluntary_switches += answer["voluntary_switches"]
        self.compilations = max(self.compilations, answer["compilations"] - self.compiled_before)
        self.first_cpu_ns = answer["woke_cpu_ns"] if self.first_cpu_ns is None else self.first_cpu_ns
        self.last_cpu_ns = answer["slept_cpu_ns"]
        self.least_step_ns = min(self.least_step_ns, sum(answer["step_ns"]) / steps)

    @property
    def cpu_s(self) -> float:
        """From its first slice's start to its last one's end."""
        return (self.last_cpu_ns - (self.first_cpu_ns or 0)) / 1e9

    def stood_still(self, lasted_ns: int, cpu_ns: int | None) -> None:
        self.idle_ns += lasted_ns
        self.idle_cpu_ns = None if cpu_ns is None or self.idle_cpu_ns is None else self.idle_cpu_ns + cpu_ns


class Stretch:
    """Made just before the first slice of arms that are up together, told of every slice, asked just after the last."""

    def __init__(
        self, group: Group, arms: Sequence[Arm], *, cpus: Mapping[str, Collection[int]], compilations: Mapping[str, int]
    ) -> None:
        """Begin.

        arms          those whose workers are in the group
        cpus          of every arm, its processors
        compilations  of every arm, graphs compiled before
        """
        self._cells = {arm.id: arm.cell for arm in arms}
        self._tallies = {arm: _Tally(compiled_before=compilations[arm]) for arm in self._cells}
        self._cpus = {arm: tuple(sorted(cpus[arm])) for arm in self._cells}
        channels = {arm: group.channel(arm) for arm in self._cells}
        self._gpus = {channel.gpu.uuid for channel in channels.values() if channel.gpu}
        self._clocks = {arm: cpu_clock(channel.pid) for arm, channel in channels.items()}
        self._watch = Watch(
            cpus=self._all_cpus(),
            arms={arm: Watched(channel.pid, channel.scope, self._cpus[arm]) for arm, channel in channels.items()},
            gpu=any(cell.device == "cuda" for cell in self._cells.values()),
        )
        self._idle_from: dict[str, int | None] = {}
        self._gone_s: dict[str, float] = {}  # CPU time of arms that left
        self._began_ns = 0

    def begin_slice(self, arm: str) -> None:
        """Just before an arm is asked to `measure`: the others stand still from now on, or should."""
        self._idle_from = self._cpu_ns_of_others(arm)
        self._began_ns = time.monotonic_ns()

    def end_slice(self, arm: str, answer: Mapping[str, Any], steps: int) -> None:
        """Just after it has answered, with so many steps measured."""
        lasted_ns = time.monotonic_ns() - self._began_ns
        for other, cpu_ns in self._cpu_ns_of_others(arm).items():
            self._tallies[other].stood_still(lasted_ns, _minus(cpu_ns, self._idle_from[other]))
        self._tallies[arm].measured(answer, steps)

    def leave(self, arm: str) -> None:
        """An arm failed: the others go on, and no fact is told of it. Its process may still be there, or not."""
        tally, now_ns = self._tallies.pop(arm), _cpu_ns(self._clocks.pop(arm))
        used_ns = _minus(now_ns, tally.first_cpu_ns)
        self._gone_s[arm] = tally.cpu_s if used_ns is None else used_ns / 1e9

    def _cpu_ns_of_others(self, arm: str) -> dict[str, int | None]:
        return {other: _cpu_ns(clock) for other, clock in self._clocks.items() if other != arm}

    def facts(self, sampler: Sampler | None = None) -> gates.Facts:
        """End. The sampler is asked who else was on the arms' GPU."""
        foreign, why = self._foreign(sampler)
        gained = self._watch.gained()
        on_gpu = peak.gpu_flops_per_s(*gained.gpu_size) if gained.gpu_size else None
        others_s = self._others_s(self._all_cpus(), gained.machine.busy_s)
        arms = {
            arm: gates.ArmFacts(
                cpus=self._cpus[arm],
                **self._of_slices(arm),
                peak_flops_per_s=on_gpu if self._cells[arm].device == "cuda" else peak.cpu_flops_per_s(self._cpus[arm]),
                others_s=_least(others_s, self._others_s(self._cpus[arm], gained.arms[arm].busy_s)),
                **gained.arms[arm]._asdict(),
            )
            for arm in self._tallies
        }
        return gates.Facts(
            seconds=gained.seconds,
            cpus=self._all_cpus(),
            **gained.machine._asdict(),
            others_s=others_s,
            gpu=gained.gpu._asdict() if gained.gpu else None,
            foreign=foreign,
            arms=arms,
            nulls=self._nulls() | self._uncounted() | ({"foreign": why} if why else {}),
        )

    def _all_cpus(self) -> tuple[int, ...]:
        return tuple(sorted({cpu for own in self._cpus.values() for cpu in own}))

    def _others_s(self, cpus: Collection[int], busy_s: float | None) -> float | None:
        """Of the time in which these processors ran anything, what was not of arms that may run nowhere else."""
        used_s = self._gone_s | {arm: tally.cpu_s for arm, tally in self._tallies.items()}
        within = [arm for arm, own in self._cpus.items() if set(own) <= set(cpus)]
        return None if busy_s is None else busy_s - sum(used_s[arm] for arm in within)

    def _nulls(self) -> dict[str, str]:
        """Why some counters are None; those of an arm that left are nobody's."""
        gone = tuple(f"{arm}." for arm in self._cells.keys() - self._tallies.keys())
        return {name: why for name, why in self._watch.nulls.items() if not name.startswith(gone)}

    def _foreign(self, sampler: Sampler | None) -> tuple[list[dict[str, Any]] | None, str | None]:
        """The others' programs on the arms' GPU, or None and why that is not known."""
        if not self._gpus:
            return None, None
        if sampler is None:
            return None, "there is no sampler to ask"
        told = [sampler.foreign(gpu) for gpu in sorted(self._gpus)]
        whys = [why for _, why in told if why]
        return (None, "; ".join(whys)) if whys else ([one for found, _ in told for one in found or ()], None)

    def _of_slices(self, arm: str) -> dict[str, Any]:
        tally, flops = self._tallies[arm], step_flops(self._cells[arm])
        idle = len(self._tallies) > 1 and tally.idle_cpu_ns is not None
        return {
            "slice_s": tally.slice_ns / 1e9,
            "slice_cpu_s": tally.slice_cpu_ns / 1e9,
            "cpu_s": tally.cpu_s,
            "involuntary_switches": tally.involuntary_switches,
            "voluntary_switches": tally.voluntary_switches,
            "compilations": tally.compilations,
            "idle_s": tally.idle_ns / 1e9 if idle else None,
            "idle_cpu_s": (tally.idle_cpu_ns or 0) / 1e9 if idle else None,
            "step_flops": flops,
            "flops_per_s": flops / tally.least_step_ns * 1e9 if flops else None,
        }

    def _uncounted(self) -> dict[str, str]:
        """Why some figures of the arms are None."""
        found = {}
        for arm in self._tallies:
            cell = self._cells[arm]
            if step_flops(cell) is None:
                found[f"{arm}.step_flops"] = f"workload {cell.workload.name} counts no floating-point operations"
            if len(self._cells) == 1:
                found[f"{arm}.idle_cpu_s"] = "alone, an arm has no others to stand still for"
            elif self._tallies[arm].idle_cpu_ns is None:
                found[f"{arm}.idle_cpu_s"] = "its CPU clock cannot be read from here"
        return found


def step_flops(cell: Cell) -> int | None:
    """Floating-point operations of one step; None for a workload that counts none."""
    count = getattr(spec_of(cell.workload.name), "flops", None)
    if count is None:
        return None
    return int(count(cell.workload.mapping, batch_size=cell.batch_size, phase=cell.phase))


def _cpu_ns(clock: int) -> int | None:
    """CPU time of a process; None where it has ended, or is not of this machine."""
    try:
        return time.clock_gettime_ns(clock)
    except OSError:
        return None


def _least(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else min(one, other)


def _minus(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before
