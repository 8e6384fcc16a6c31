"""The gates: facts of a block in, one sentence out for each that says it was spoiled (pure).

A sentence begins with its cause and a colon. A fact that is None is not judged: it was not measured, and the block's
record says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

STEAL_SHARE = 1e9  # CALIBRATING 0.10
OTHERS_SHARE = 1e9  # CALIBRATING 0.25
WAITING_SHARE = 1e9  # CALIBRATING 0.25
UNEQUAL_SHARE = 1e9  # CALIBRATING 0.05
SWITCHES_PER_S = 1e9  # CALIBRATING 250
IDLE_SHARE = 0.02
STALL_SHARE = 0.01
GPU_THERMAL_SHARE = 0.01
GPU_SLOWED = 0x8 | 0x20 | 0x40 | 0x80
FASTER_ALGORITHM = 4


@dataclass(frozen=True, kw_only=True)
class ArmFacts:
    """What happened to one arm; None: not measured.

    slice_s               time of its slices, settling included
    cpu_s                 CPU time of its process from the start of its first slice to the end of its last
    involuntary_switches  of its threads in its slices
    compilations          graphs that it compiled meanwhile
    idle_s, idle_cpu_s    time of the others' slices, and the CPU time that it used in them
    step_flops            floating-point operations of one step, by the workload's spec
    flops_per_s           of its fastest slice
    peak_flops_per_s      an upper bound of its device
    throttled             periods in which its control group was held back by a CPU quota
    waited_s              time in which its threads could have run and had no processor
    pressure_cpu_s        time in which some task of its control group waited for a processor; likewise memory and io
    """

    slice_s: float
    cpu_s: float
    involuntary_switches: int
    compilations: int
    idle_s: float | None
    idle_cpu_s: float | None
    step_flops: int | None
    flops_per_s: float | None
    peak_flops_per_s: float | None
    throttled: int | None
    waited_s: float | None
    pressure_cpu_s: float | None
    pressure_memory_s: float | None
    pressure_io_s: float | None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What happened from before the first slice to after the last; None: not measured, and `nulls` says why.

    seconds           how long that was
    cpus              the arms' processors
    throttled         periods in which the harness's control group was held back by a CPU quota
    overheated        times that one of `cpus` was slowed down for its heat
    busy_s            time in which `cpus` ran anything, summed over them
    others_s          that which was not the arms'
    steal_s           time that the host kept from `cpus`, summed over them
    pressure_cpu_s    time in which some task of the machine waited for a processor; likewise memory and io
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
    arms: Mapping[str, ArmFacts]
    nulls: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As kept in a block's record."""
        return asdict(self)


def reasons(stretches: Sequence[Facts]) -> list[str]:
    """What spoiled a block.

    stretches  one in lockstep; in serial one of each arm
    """
    arms = {arm: own for facts in stretches for arm, own in facts.arms.items()}
    found = [reason for facts in stretches for reason in _of_machine(facts)]
    found += [reason for facts in stretches for arm, own in facts.arms.items() for reason in _of_arm(arm, own, facts)]
    return [*found, *_unequal(arms, stretches)]


def cause(reason: str) -> str:
    """The words that all reasons of one kind begin with."""
    return reason.partition(":")[0]


def _of_machine(facts: Facts) -> Iterator[str]:
    cpus = f"CPU {', '.join(map(str, facts.cpus))}"
    whole_s = facts.seconds * len(facts.cpus)
    if facts.throttled:
        yield f"CPU quota: the harness's control group was held back {_times(facts.throttled)} (limit 0)"
    if facts.overheated:
        yield f"heat: {cpus} slowed down {_times(facts.overheated)} (limit 0)"
    if _over(facts.steal_s, whole_s, STEAL_SHARE):
        yield f"steal: the host kept {_percent(facts.steal_s, whole_s)} of {cpus} (limit {100 * STEAL_SHARE:.0f} %)"
    if _over(facts.others_s, whole_s, OTHERS_SHARE):
        share = _percent(facts.others_s, whole_s)
        yield f"other processes: they used {share} of {cpus} (limit {100 * OTHERS_SHARE:.0f} %)"
    yield from _of_gpu(facts)


def _of_gpu(facts: Facts) -> Iterator[str]:
    if facts.gpu is None:
        return
    thermal_s, bits = facts.gpu["thermal_s"], facts.gpu["reasons"]
    if _over(thermal_s, facts.seconds, GPU_THERMAL_SHARE):
        share = _percent(thermal_s, facts.seconds)
        yield f"heat: the GPU's clock was lowered for {share} of the time (limit {100 * GPU_THERMAL_SHARE:.0f} %)"
    if bits is not None and int(bits) & GPU_SLOWED:
        yield f"heat: the GPU slowed itself down (clock event reasons 0x{int(bits) & GPU_SLOWED:x}, limit none)"


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
    if len(facts.cpus) == 1:  # on several, an arm's own threads push each other off
        yield from _of_one_thread(arm, own)


def _of_one_thread(arm: str, own: ArmFacts) -> Iterator[str]:
    if _over(_waited_s(own), own.slice_s, WAITING_SHARE):
        share = _percent(_waited_s(own), own.slice_s)
        yield f"waiting: {arm} had no processor for {share} of its slices (limit {100 * WAITING_SHARE:.0f} %)"
    rate = own.involuntary_switches / own.slice_s
    if rate > SWITCHES_PER_S:
        yield f"switches: {arm} was pushed off {rate:.0f} times a second of its slices (limit {SWITCHES_PER_S})"


def _unequal(arms: Mapping[str, ArmFacts], stretches: Sequence[Facts]) -> Iterator[str]:
    """What arms share cancels; what one has more of than another does not."""
    shares = {arm: waited_s / own.slice_s for arm, own in arms.items() if (waited_s := _waited_s(own)) is not None}
    if len(shares) < 2 or any(len(facts.cpus) > 1 for facts in stretches):
        return
    most, least = max(shares, key=shares.__getitem__), min(shares, key=shares.__getitem__)
    if shares[most] - shares[least] > UNEQUAL_SHARE:
        yield (
            f"unequal waiting: {most} had no processor for {100 * shares[most]:.1f} % of its slices and {least} "
            f"for {100 * shares[least]:.1f} % (limit {100 * UNEQUAL_SHARE:.0f} points apart)"
        )


def _waited_s(own: ArmFacts) -> float | None:
    """As the kernel counts it by thread, or else by control group."""
    return own.pressure_cpu_s if own.waited_s is None else own.waited_s


def _over(part: float | None, whole: float | None, share: float) -> bool:
    return part is not None and whole is not None and part > share * whole


def _percent(part: float | None, whole: float | None) -> str:
    return f"{100 * (part or 0.0) / (whole or 1.0):.1f} %"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
