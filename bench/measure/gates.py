"""The gates: facts of a block in, one sentence out for each that says it was spoiled (pure).

A sentence begins with its cause and a colon. A fact that is None is not judged: it was not measured, and the block's
record says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.telemetry.nvml import SLOWED

# Measured on two virtual cores, cgroup v1 with PSI, the arms on one of them, in blocks of 3 to 33 s of stubs and of
# linear regression: 26 quiet ones, 46 beside background that took a tenth, 19 beside a busy loop of equal weight on the
# arms' core, 21 in a crowd of 4 to 8 busy processes. Least, median and largest value:
#
#                            quiet              background          loop                crowd
#   lost of its slices, %    0.0  0.3  4.7      1.8  10.5  17.5     49.7  50.6  51.9    65.0  74.2  84.8
#   arms apart, points       0.0  0.2  3.7      0.0   0.4   2.2      0.1   0.4   1.8     0.0   0.4   2.4
#   used by others, %       -0.4  0.8  6.6     10.3  12.9  16.1     46.7  50.4  51.3    61.4  67.9  76.5
#   switches a second        0.8  5.1   50      7.5  29.3   101      109   117   122      46    76    98
#   steal, %                 0.0  1.8  9.6      0.0   0.6   9.0      0.0   1.6   7.7     0.1   1.8   8.8
#   idle arm's CPU time, %   0.0  0.0  0.2      0.0   0.0   0.5      0.0   0.0   0.0     0.0   0.0   0.0
#   pressure on CPUs, %      0.1  6.1   92       61   100   100       67    95    96      76    99   100
#
# Stalls on memory were never seen. The standard deviation of a stub's log ratio was 1.0 to 2.7 % quiet and in
# background, 1.8 % beside the loop, 2.0 to 5.4 % in the crowd, since lockstep shares what disturbs; and 61 to 156 %
# where one arm was outweighed and the other was not, 44 to 68 points apart. A process that woke 1,000 to 3,000 times a
# second made 660 to 1,840 switches a second. A thread of the arm's own that pushes another one off leaves by itself
# soon after: graphs of one did so 1,670 to 2,420 times a second on an idle machine, each with a voluntary switch
# to match it, so that only the involuntary switches beyond the voluntary ones are somebody else's. Pressure on the
# whole machine's processors says nothing of the arms, and a loop of fsync on another one (pressure on disks 6 to 8 %)
# changed nothing: these two are recorded and not judged.
LEAST_S = 0.020  # of any time: /proc/stat moves in ticks of 10 ms, and another process' one turn takes 4
WAITING_SHARE = 0.30  # of an arm's slices, and as much of one processor used by others
UNEQUAL_SHARE = 0.05  # of its slices, between two arms
SWITCHES_PER_S = 500  # of its slices
STEAL_SHARE = 0.20  # of the arms' processors
IDLE_SHARE = 0.01  # of the others' slices
STALL_SHARE = 0.01  # of the stretch
GPU_THERMAL_SHARE = 0.01  # of the stretch
# Winograd's F(4×4, 3×3) multiplies a quarter as often as the direct convolution that a spec counts: Lavin & Gray 2016.
FASTER_ALGORITHM = 4


@dataclass(frozen=True, kw_only=True)
class ArmFacts:
    """What happened to one arm; None: not measured.

    cpus                  its processors
    slice_s, slice_cpu_s  time of its slices, settling included, and the CPU time of its process in them
    cpu_s                 CPU time of its process from the start of its first slice to the end of its last
    involuntary_switches  of its threads in its slices; voluntary_switches likewise
    compilations          graphs that it compiled meanwhile
    idle_s, idle_cpu_s    time of the others' slices, and the CPU time that it used in them
    step_flops            floating-point operations of one step, by the workload's spec
    flops_per_s           of its fastest slice
    peak_flops_per_s      an upper bound of its device
    throttled             periods in which its control group was held back by a CPU quota
    overheated            times that one of `cpus` was slowed down for its heat
    busy_s, steal_s       time in which `cpus` ran anything, and which the host kept from them, summed over them
    others_s              of busy_s what was no arm's, at most: where another arm has more processors, not each
                          processor's share of its time is known
    waited_s              time in which its threads could have run and had no processor, between its slices too
    pressure_cpu_s        time in which some task of its control group waited for a processor; likewise memory and io
    """

    cpus: tuple[int, ...]
    slice_s: float
    slice_cpu_s: float
    cpu_s: float
    involuntary_switches: int
    voluntary_switches: int
    compilations: int
    idle_s: float | None
    idle_cpu_s: float | None
    step_flops: int | None
    flops_per_s: float | None
    peak_flops_per_s: float | None
    throttled: int | None
    overheated: int | None
    busy_s: float | None
    others_s: float | None
    steal_s: float | None
    waited_s: float | None
    pressure_cpu_s: float | None
    pressure_memory_s: float | None
    pressure_io_s: float | None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What happened from before the first slice to after the last; None: not measured, and `nulls` says why.

    seconds           how long that was
    cpus              all processors that are some arm's
    throttled         periods in which the harness's control group was held back by a CPU quota
    overheated        times that one of `cpus` was slowed down for its heat
    busy_s            time in which `cpus` ran anything, summed over them
    others_s          that which was not the arms'
    steal_s           time that the host kept from `cpus`, summed over them
    pressure_cpu_s    time in which some task of the machine waited for a processor; likewise memory and io
    foreign           the programs with a compute context on the arms' GPU that are no arm's: pid, name, memory_bytes
    gpu               what telemetry.machine.OfGpu says, by its names; None where no arm uses a GPU
    """

    seconds: float
    cpus: tuple[int, ...]
    throttled: int | None
    overheated: int | None
    busy_s: float | None
    others_s: float | None
    steal_s: float | None
    pressure_cpu_s: float | None
    pressure_memory_s: float | None
    pressure_io_s: float | None
    gpu: Mapping[str, float | None] | None
    foreign: Sequence[Mapping[str, Any]] | None
    arms: Mapping[str, ArmFacts]
    nulls: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As kept in a block's record."""
        return asdict(self)


def reasons(stretches: Sequence[Facts]) -> list[str]:
    """What spoiled a block.

    stretches  one in lockstep; in serial one of each arm
    """
    found = [reason for facts in stretches for reason in _of_machine(facts)]
    found += [reason for facts in stretches for arm, own in facts.arms.items() for reason in _of_arm(arm, own, facts)]
    return list(dict.fromkeys([*found, *_unequal(stretches)]))


def _of_machine(facts: Facts) -> Iterator[str]:
    if facts.throttled:
        yield f"CPU quota: the harness's control group was held back {_times(facts.throttled)} (limit 0)"
    for own in facts.arms.values():
        yield from _of_cpus(own, facts.seconds)
    yield from _of_gpu(facts)
    for program in facts.foreign or ():
        name, pid = program["name"], program["pid"]
        yield f"other program: {name} (process {pid}) held a compute context on the arms' GPU (limit none)"


def _of_cpus(own: ArmFacts, seconds: float) -> Iterator[str]:
    """Of an arm's processors; arms that share them all share the sentence."""
    cpus = f"CPU{'s' if len(own.cpus) > 1 else ''} {', '.join(map(str, own.cpus))}"
    whole_s = seconds * len(own.cpus)
    if own.overheated:
        yield f"heat: {cpus} slowed down {_times(own.overheated)} (limit 0)"
    if _over(own.steal_s, whole_s, STEAL_SHARE):
        yield f"steal: the host kept {_percent(own.steal_s, whole_s)} of {cpus} (limit {100 * STEAL_SHARE:.0f} %)"


def _of_gpu(facts: Facts) -> Iterator[str]:
    if facts.gpu is None:
        return
    thermal_s, bits = facts.gpu["thermal_s"], facts.gpu["reasons"]
    if _over(thermal_s, facts.seconds, GPU_THERMAL_SHARE):
        share = _percent(thermal_s, facts.seconds)
        yield f"heat: the GPU's clock was lowered for {share} of the time (limit {100 * GPU_THERMAL_SHARE:.0f} %)"
    if bits is not None and int(bits) & SLOWED:
        yield f"heat: the GPU slowed itself down (clock event reasons 0x{int(bits) & SLOWED:x}, limit none)"


def _of_arm(arm: str, own: ArmFacts, facts: Facts) -> Iterator[str]:
    if own.throttled:
        yield f"CPU quota: {arm}'s control group was held back {_times(own.throttled)} (limit 0)"
    if own.compilations:
        yield f"compilation: {arm} compiled {_times(own.compilations)} while it was timed (limit 0)"
    if _over(own.idle_cpu_s, own.idle_s, IDLE_SHARE):
        share = _percent(own.idle_cpu_s, own.idle_s)
        limit = f"{100 * IDLE_SHARE:.0f} %"
        yield f"busy while idle: {arm} used {share} of a processor in the others' slices (limit {limit})"
    if own.flops_per_s and own.peak_flops_per_s and own.flops_per_s > FASTER_ALGORITHM * own.peak_flops_per_s:
        speed, peak = own.flops_per_s / 1e9, own.peak_flops_per_s / 1e9
        yield (
            f"too fast: {arm} would have done {speed:,.0f} GFLOP/s where its device does {peak:,.0f} at most "
            f"(limit {FASTER_ALGORITHM} times that): steps were left out, or not waited for"
        )
    memory_s = facts.pressure_memory_s if own.pressure_memory_s is None else own.pressure_memory_s
    for what, stalled_s in (("memory", memory_s), ("a disk", own.pressure_io_s)):
        if _over(stalled_s, facts.seconds, STALL_SHARE):
            share = _percent(stalled_s, facts.seconds)
            yield f"pressure: for {share} of the time {arm} waited for {what} (limit {100 * STALL_SHARE:.0f} %)"
    yield from _waiting(arm, own, facts)
    rate = (own.involuntary_switches - own.voluntary_switches) / own.slice_s
    if len(own.cpus) == 1 and rate > SWITCHES_PER_S:  # on several, an arm's own threads push each other off
        pushed = f"{arm} was pushed off by others {rate:,.0f} times a second of its slices"
        yield f"switches: {pushed} (limit {SWITCHES_PER_S})"


def _waiting(arm: str, own: ArmFacts, facts: Facts) -> Iterator[str]:
    """Threads wait for their own kind too, and others may use a processor that no arm wants: only both are a loss."""
    lost_s = _lost_s(own)
    used = f"other processes used {_percent(own.others_s, facts.seconds)} of a processor of its"
    limit = f"(limit {100 * WAITING_SHARE:.0f} %)"
    if not _over(own.others_s, facts.seconds, WAITING_SHARE):
        return
    if _over(lost_s, own.slice_s, WAITING_SHARE):
        yield f"waiting: {arm} had no processor for {_percent(lost_s, own.slice_s)} of its slices, and {used} {limit}"
    elif lost_s is None and len(own.cpus) == 1:  # where there is no other to use
        yield f"waiting: while {arm} was measured, {used} {limit}"


def _unequal(stretches: Sequence[Facts]) -> Iterator[str]:
    """What arms share cancels; what one has more of than another does not. Of those with one processor each."""
    known = [(lost_s, own.slice_s, arm) for facts in stretches for arm, own in facts.arms.items()
             if len(own.cpus) == 1 and (lost_s := _lost_s(own)) is not None]  # fmt: skip
    if len(known) < 2:
        return
    ordered = sorted(known, key=lambda one: one[0] / one[1])
    (least_s, shorter_s, least), (most_s, longer_s, most) = ordered[0], ordered[-1]
    if _over(most_s - least_s * longer_s / shorter_s, longer_s, UNEQUAL_SHARE):
        yield (
            f"unequal waiting: {most} had no processor for {_percent(most_s, longer_s)} of its slices and {least} "
            f"for {_percent(least_s, shorter_s)} (limit {100 * UNEQUAL_SHARE:.0f} points apart)"
        )


def _lost_s(own: ArmFacts) -> float | None:
    """Time of its slices for which an arm had no processor: at most, since no counter says just that.

    It waited so long, by thread or else by control group, if not between its slices; and on one processor it did not
    run for so long, if not for its own reasons.
    """
    waited_s = own.pressure_cpu_s if own.waited_s is None else own.waited_s
    if waited_s is None or len(own.cpus) > 1:
        return waited_s
    return min(waited_s, own.slice_s - own.slice_cpu_s)


def _over(part_s: float | None, whole_s: float | None, share: float) -> bool:
    return part_s is not None and whole_s is not None and part_s > max(share * whole_s, LEAST_S)


def _percent(part: float | None, whole: float | None) -> str:
    return f"{100 * (part or 0.0) / (whole or 1.0):.1f} %"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
