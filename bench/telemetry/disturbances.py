"""What disturbs the arms: counters of the kernel and of a GPU, read before the first slice and after the last.

Sources: proc_stat(5); Linux Documentation/accounting/psi.rst, scheduler/sched-bwc.rst, scheduler/sched-stats.rst,
ABI/testing/sysfs-devices-system-cpu (thermal_throttle).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench.telemetry import cgroup, nvml
from bench.telemetry.usage import Waits, number

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Of the words of a processor's line in /proc/stat: user, nice, system, irq, softirq; and what the host took.
_BUSY, _STEAL = (1, 2, 3, 6, 7), (8,)
_PRESSURES = ("cpu", "memory", "io")


class Watched(NamedTuple):
    """An arm: its first process as seen from here, how that is read (usage.SCOPES), and its processors."""

    pid: int
    scope: str
    cpus: Collection[int]


class OfMachine(NamedTuple):
    """What the machine's counters gained; None: not measured, and `Watch.nulls` says why.

    throttled          periods in which this process's control group, or one above it, was held back by its CPU quota
    overheated         times that a processor of the arms, or its package, was slowed down for its heat
    busy_s             time in which the arms' processors ran anything, summed over them; moves in ticks
    steal_s            time that the host kept from the arms' processors, summed over them
    pressure_cpu_s     time in which some task of the machine waited for a processor; likewise for memory and for io
    """

    throttled: int | None = None
    overheated: int | None = None
    busy_s: float | None = None
    steal_s: float | None = None
    pressure_cpu_s: float | None = None
    pressure_memory_s: float | None = None
    pressure_io_s: float | None = None


class OfArm(NamedTuple):
    """What an arm's counters gained; None: not measured, and `Watch.nulls` says why.

    throttled          periods in which its control group, or one above it, was held back by its CPU quota
    overheated         of its own processors, as OfMachine has it of all; likewise busy_s and steal_s
    waited_s           time in which its threads could have run and had no processor, summed over them
    pressure_cpu_s     time in which some task of its control group waited for a processor; likewise memory and io
    """

    throttled: int | None = None
    overheated: int | None = None
    busy_s: float | None = None
    steal_s: float | None = None
    waited_s: float | None = None
    pressure_cpu_s: float | None = None
    pressure_memory_s: float | None = None
    pressure_io_s: float | None = None


class OfGpu(NamedTuple):
    """What one GPU's counters gained, and what held its clock back at either end; None: not measured.

    thermal_s      time for which heat lowered its clock
    power_cap_s    time for which its power limit did
    board_limit_s  time for which a limit of its board did
    reasons        clock event reasons in effect before or after, a set of bits (nvmlClocksEventReasons)
    """

    thermal_s: float | None = None
    power_cap_s: float | None = None
    board_limit_s: float | None = None
    reasons: int | None = None


class Gained(NamedTuple):
    """All of it, with how long it took; `gpu` is None where no arm uses one."""

    seconds: float
    machine: OfMachine
    arms: dict[str, OfArm]
    gpu: OfGpu | None = None
    gpu_size: nvml.Size | None = None


class Watch:
    """Reads every counter when it is made, and again when it is asked what they gained."""

    def __init__(
        self,
        *,
        cpus: Iterable[int],
        arms: Mapping[str, Watched],
        gpu: bool = False,
        root: Path = Path("/"),
        api: Any = None,
    ) -> None:
        """Begin.

        cpus   all that arms run on
        arms   each of them
        gpu    whether some arm uses a GPU, which is the first one
        root   where proc and sys are found; another folder in tests
        api    stands in for the module pynvml in tests
        """
        self.nulls: dict[str, str] = {}
        self._probes = {"": _of_machine(sorted(cpus), root)}
        self._probes |= {arm: _of_arm(watched, root) for arm, watched in arms.items()}
        self._gpu, self._api = gpu, api
        self._gpu_before = self._read_gpu()
        self._before = self._read()
        self._began_ns = time.monotonic_ns()

    def gained(self) -> Gained:
        """What has been gained since; a counter that cannot be read any more is None."""
        seconds = (time.monotonic_ns() - self._began_ns) / 1e9
        after, gpu_after = self._read(), self._read_gpu()
        gains = {
            whose: {name: _minus(value, self._before[whose][name]) for name, value in values.items()}
            for whose, values in after.items()
        }
        return Gained(
            seconds=seconds,
            machine=OfMachine(**gains.pop("")),  # type: ignore[arg-type]
            arms={arm: OfArm(**own) for arm, own in gains.items()},  # type: ignore[arg-type]
            gpu=_gpu_gained(self._gpu_before[0], gpu_after[0]) if self._gpu else None,
            gpu_size=gpu_after[1] if self._gpu else None,
        )

    def _read(self) -> dict[str, dict[str, float | None]]:
        return {
            whose: {name: self._value(f"{whose}.{name}".lstrip("."), probe) for name, probe in probes.items()}
            for whose, probes in self._probes.items()
        }

    def _value(self, name: str, probe: Probe) -> float | None:
        try:
            return probe()
        except (OSError, ValueError) as error:
            self.nulls.setdefault(name, _reason(error))
            return None

    def _read_gpu(self) -> tuple[nvml.HeldBack, nvml.Size]:
        """Of the first GPU, opened and closed again: a block that fails leaves nothing open."""
        if not self._gpu:
            return nvml.HeldBack(), nvml.Size()
        gpus = nvml.Gpus(self._api)
        held, sizes = gpus.held_back(), gpus.sizes()
        gpus.close()
        why = gpus.nulls if gpus.devices else {"gpu": "NVML shows no GPU"} | gpus.nulls
        self.nulls.update(why)
        return held[0][1] if held else nvml.HeldBack(), sizes[0][1] if sizes else nvml.Size()


Probe = Callable[[], float]


def _of_machine(cpus: Sequence[int], root: Path) -> dict[str, Probe]:
    """How each field of OfMachine is read."""
    pressure = root / "proc/pressure"
    return {
        "throttled": _made(lambda: _throttled(_groups("self", root))),
        **_of_cpus(cpus, root),
        **{f"pressure_{what}_s": partial(_pressure_s, pressure / what) for what in _PRESSURES},
    }


def _of_cpus(cpus: Sequence[int], root: Path) -> dict[str, Probe]:
    """How the fields of processors are read."""
    return {
        "overheated": _made(lambda: _overheated(cpus, root)),
        "busy_s": partial(_ticks_s, cpus, _BUSY, root / "proc/stat"),
        "steal_s": partial(_ticks_s, cpus, _STEAL, root / "proc/stat"),
    }


def _of_arm(watched: Watched, root: Path) -> dict[str, Probe]:
    """How each field of OfArm is read."""
    pid, scope, cpus = watched
    waits = Waits(root)
    return {
        "throttled": _made(lambda: _throttled(_own_groups(pid, scope, root))),
        **_of_cpus(sorted(cpus), root),
        "waited_s": lambda: _waited_s(waits, pid),
        **{
            f"pressure_{what}_s": _made(partial(_group_pressure, pid, scope, f"{what}.pressure", root))
            for what in _PRESSURES
        },
    }


def _made(make: Callable[[], Probe]) -> Probe:
    """The probe, or one that says each time why there is none."""
    try:
        return make()
    except (OSError, ValueError) as error:
        return partial(_refuse, _reason(error))


def _refuse(why: str) -> float:
    raise ValueError(why)


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _groups(pid: int | str, root: Path) -> set[Path]:
    """The control groups of a process and all above them."""
    return {
        group for folder in cgroup.directories(pid, root=root, top=True).values() for group in cgroup.lineage(folder)
    }


def _own_groups(pid: int, scope: str, root: Path) -> set[Path]:
    """Those of a container that this process is not in: one that both are in holds more than the arm."""
    found = _groups(pid, root) - _groups("self", root) if scope == "cgroup" else set()
    if not found:
        raise ValueError("a local worker has no control group of its own")
    return found


def _throttled(groups: Iterable[Path]) -> Probe:
    """Throttled periods, summed over the groups that count them: a group without a quota above it may not."""
    files = [group / "cpu.stat" for group in groups if (group / "cpu.stat").exists()]
    counting = [file for file in files if number(file.read_bytes(), b"nr_throttled ") is not None]
    if not counting:
        raise ValueError("no control group counts throttled periods")
    return lambda: sum(_counted(file, b"nr_throttled ") for file in counting)


def _group_pressure(pid: int, scope: str, name: str, root: Path) -> Probe:
    folder = cgroup.directories(pid, root=root).get(cgroup.UNIFIED)
    if folder not in _own_groups(pid, scope, root):
        raise ValueError("no unified control group of its own")
    return partial(_pressure_s, folder / name)


def _pressure_s(file: Path) -> float:
    """The total of the first line, `some`."""
    return _counted(file, b"total=") / 1e6


def _overheated(cpus: Sequence[int], root: Path) -> Probe:
    folders = [root / f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle" for cpu in cpus]
    files = [file for folder in folders for file in folder.glob("*_throttle_count")]
    if not files:
        raise ValueError("the kernel shows no thermal_throttle")
    return lambda: sum(int(file.read_bytes()) for file in files)


def _ticks_s(cpus: Sequence[int], columns: Sequence[int], file: Path) -> float:
    wanted = {b"cpu%d" % cpu for cpu in cpus}
    rows = [words for line in file.read_bytes().splitlines() if (words := line.split())[:1] and words[0] in wanted]
    if len(rows) != len(cpus):
        raise ValueError(f"/proc/stat shows {len(rows)} of {len(cpus)} processors")
    return sum(int(words[column]) for words in rows for column in columns) / _TICKS_PER_S


def _waited_s(waits: Waits, pid: int) -> float:
    waited_ns = waits.read([pid])
    if waited_ns is None:
        raise ValueError("the kernel shows no schedstat of its threads")
    return waited_ns / 1e9


def _counted(file: Path, key: bytes) -> int:
    found = number(file.read_bytes(), key)
    if found is None:
        raise ValueError(f"{file.name} has no {key.decode().strip(' =')}")
    return found


def _minus(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _gpu_gained(before: nvml.HeldBack, after: nvml.HeldBack) -> OfGpu:
    seen = [one.reasons for one in (before, after) if one.reasons is not None]
    return OfGpu(
        thermal_s=_seconds(_minus(after.thermal_ns, before.thermal_ns)),
        power_cap_s=_seconds(_minus(after.power_cap_ns, before.power_cap_ns)),
        board_limit_s=_seconds(_minus(after.board_limit_ns, before.board_limit_ns)),
        reasons=seen[0] | seen[-1] if seen else None,
    )


def _seconds(ns: float | None) -> float | None:
    return None if ns is None else ns / 1e9
