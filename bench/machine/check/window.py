"""What happens on the machine while one looks: counters of the kernel at the start and at the end of a second.

Sources: proc_stat(5), proc_pid_stat(5), Linux Documentation/accounting/psi.rst and
admin-guide/thermal/intel_thermal_throttle.rst; taskset(1) for the cure.
"""

from __future__ import annotations

import operator
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.machine import cpus
from bench.machine.check.findings import Finding, Level, Machine
from bench.machine.describe import cpu_numbers, load_1min, read_line, read_text
from bench.telemetry.disturbances import OfMachine, Watch
from bench.text import clean, listed

# Above this share of the time in which some task waits, intervals grow.
PRESSED = {"cpu": 0.10, "memory": 0.01, "io": 0.10}
_IDLE, _IOWAIT, _STEAL = 3, 4, 7  # places in a line of /proc/stat
_NOTHING, _LONGER = "/proc/stat tells nothing of the arms' CPUs", "Look for a second or more."
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Program:
    """A process that used the CPU.

    name   as the kernel has it, without path and arguments
    share  of one CPU, by all its threads
    there  whether its first thread ran on one of the arms' CPUs last
    """

    name: str
    pid: int
    share: float
    there: bool


@dataclass(frozen=True, kw_only=True)
class Window:
    """The machine over a short time.

    ticks     of each of the arms' CPUs: user, nice, system, idle, iowait, irq, softirq, steal; {} where not all tell
    gained    what the kernel's counters gained; `nulls` says why one is None
    programs  those that may run on the arms' CPUs; first those that do, and the busiest first
    """

    seconds: float
    ticks: dict[int, tuple[int, ...]]
    gained: OfMachine
    nulls: dict[str, str]
    programs: tuple[Program, ...]


def watch(machine: Machine, seconds: float) -> Window:
    """Read, sleep, read again; processes are read outside of the counters, so that reading them is not counted."""
    began, started_ns = _processes(machine.root), time.monotonic_ns()
    counters, before = Watch(cpus=machine.arms, arms={}, root=machine.root), _ticks(machine)
    time.sleep(seconds)
    after, gained = _ticks(machine), counters.gained()
    ended, possible = _processes(machine.root), (time.monotonic_ns() - started_ns) / 1e9 * _TICKS_PER_S
    used = [
        Program(
            name=clean(name),
            pid=pid,
            share=(ticks - began.get((pid, start), ("", 0, 0))[1]) / possible,
            there=cpu in machine.arms,
        )
        for (pid, start), (name, ticks, cpu) in ended.items()
        if pid != os.getpid()
    ]
    disturbing = [one for one in used if one.share >= 0.01 and _may_run_on(machine, one.pid)]
    spent = {cpu: tuple(map(operator.sub, late, before[cpu])) for cpu, late in after.items() if cpu in before}
    told = spent.keys() == machine.arms and all(map(sum, spent.values()))
    return Window(
        seconds=gained.seconds,
        ticks=spent if told else {},
        gained=gained.machine,
        nulls=counters.nulls,
        programs=tuple(sorted(disturbing, key=lambda one: (not one.there, -one.share))),
    )


def _ticks(machine: Machine) -> dict[int, tuple[int, ...]]:
    """Of the arms' CPUs, since boot."""
    return {cpu: told for cpu, told in cpus.ticks(machine.root).items() if cpu in machine.arms}


def _processes(root: Path) -> dict[tuple[int, int], tuple[str, int, int]]:
    """Name, ticks and last CPU of every process, by its number and start: numbers are given again."""
    found = {}
    for folder in (root / "proc").glob("[0-9]*"):
        text = read_text(folder / "stat") or ""
        head, _, tail = text.rpartition(")")
        words = tail.split()
        if len(words) > 36:
            ticks = int(words[11]) + int(words[12])
            found[int(folder.name), int(words[19])] = head.partition("(")[2], ticks, int(words[36])
    return found


def _may_run_on(machine: Machine, pid: int) -> bool:
    status = read_text(machine.root / f"proc/{pid}/status") or ""
    allowed = re.search(r"^Cpus_allowed_list:\s*(\S+)", status, re.M)
    return bool(machine.arms & (cpu_numbers(allowed[1]) or frozenset())) if allowed else False


# ---------------------------------------------------------------- findings


def findings(machine: Machine, window: Window) -> Iterator[Finding]:
    """All that a window shows."""
    yield busy(machine, window)
    yield load(machine)
    yield steal(window)
    yield from (pressure(window, resource) for resource in PRESSED)
    yield thermal(machine, window)


def busy(machine: Machine, window: Window) -> Finding:
    """Whether others use the arms' CPUs, and who."""
    say = partial(Finding, name="busy", why="What others do on the arms' CPUs lands in the slices of one arm alone.")
    if not window.ticks:
        return say(level="unknown", found=_NOTHING, cure=_LONGER)
    shares = {cpu: (sum(t) - t[_IDLE] - t[_IOWAIT] - t[_STEAL]) / sum(t) for cpu, t in window.ticks.items()}
    worst = max(shares, key=lambda cpu: shares[cpu])
    level: Level = "fail" if shares[worst] > 0.20 else "warn" if shares[worst] > 0.05 else "ok"
    found = f"CPU {worst} is {shares[worst]:.0%} busy"
    if level == "ok":
        return say(level=level, found=found)
    top = _busiest(window.programs)
    by = ": " + ", ".join(f"{name} {share:.0%}" for name, share in top.items()) if top else ", by whom cannot be told"
    return say(level=level, found=found + by, cure=_away(machine, [one for one in window.programs if one.name in top]))


def _busiest(programs: tuple[Program, ...]) -> dict[str, float]:
    """The three names to blame first, each with the share of all its processes."""
    shares: dict[str, float] = {}
    seen_there: dict[str, float] = {}
    for one in programs:
        shares[one.name] = shares.get(one.name, 0.0) + one.share
        seen_there[one.name] = seen_there.get(one.name, 0.0) + one.share * one.there
    worst = sorted(shares, key=lambda name: (-seen_there[name], -shares[name]))
    return {name: shares[name] for name in worst[:3]}


def _away(machine: Machine, programs: list[Program]) -> str:
    """How to move the busiest programs to the other CPUs, where there are others."""
    if not programs or not machine.spare:
        return "Stop what runs there, or wait until it is done: top shows it (press 1 for each CPU)."
    to = listed(machine.spare)
    if len(programs) == 1:
        return f"sudo taskset -acp {to} {programs[0].pid}"
    return f'for pid in {" ".join(str(one.pid) for one in programs[:8])}; do sudo taskset -acp {to} "$pid"; done'


def load(machine: Machine) -> Finding:
    """Whether the machine was busy in the last minute."""
    say = partial(Finding, name="load", why="Who else uses the machine shares its caches, memory and heat.")
    found = load_1min(machine.root)
    if found is None:
        return say(level="unknown", found="/proc/loadavg cannot be read", cure="uptime")
    text = f"{found:.2f} over the last minute, on {len(machine.usable)} CPUs"
    if found <= len(machine.usable) / 2:
        return say(level="ok", found=text)
    return say(level="warn", found=text, cure="Stop what else runs (top shows it), then wait a minute.")


def steal(window: Window) -> Finding:
    """Whether the host gives the arms' CPUs to others."""
    say = partial(Finding, name="steal", why="Stolen time stretches a step, and cannot be seen coming.")
    if not window.ticks:
        return say(level="unknown", found=_NOTHING, cure=_LONGER)
    share = max(ticks[_STEAL] / sum(ticks) for ticks in window.ticks.values())
    level: Level = "fail" if share > 0.02 else "warn" if share > 0.005 else "ok"
    cure = "Use a host that is not overbooked (dedicated CPUs), or another hour."
    return say(level=level, found=f"{share:.1%} of {window.seconds:.1f} s", cure=None if level == "ok" else cure)


def pressure(window: Window, resource: str) -> Finding:
    """Whether tasks wait for a resource, as pressure stall information tells."""
    why = {
        "cpu": "Tasks wait for a CPU somewhere on the machine.",
        "memory": "Tasks wait for memory to be found or read back.",
        "io": "Tasks wait for disks, and an arm that reads data would too.",
    }[resource]
    say = partial(Finding, name=f"pressure_{resource}", why=why)
    field = f"pressure_{resource}_s"
    waited_s = getattr(window.gained, field)
    if waited_s is None:
        cure = "Boot with psi=1 on a kernel of 4.20 or later that was built with CONFIG_PSI."
        return say(level="unknown", found=f"no pressure stall information: {window.nulls.get(field)}", cure=cure)
    share = waited_s / window.seconds
    found = f"some task waited for {share:.1%} of {window.seconds:.1f} s"
    if share <= PRESSED[resource]:
        return say(level="ok", found=found)
    cure = {
        "cpu": "Stop what else runs: top shows it.",
        "memory": "Close what holds memory: ps -eo pid,rss,comm --sort=-rss | head shows it.",
        "io": "Stop what reads and writes: sudo iotop -ao shows it (package iotop).",
    }[resource]
    return say(level="warn", found=found, cure=cure)


def thermal(machine: Machine, window: Window) -> Finding:
    """Whether heat has slowed the arms' CPUs."""
    say = partial(Finding, name="thermal", why="A processor that is too hot lowers its clock until it has cooled.")
    now = window.gained.overheated
    if now is None:
        cure = "Watch the clock on the host during a run: it cannot be seen from here."
        return say(level="unknown", found=window.nulls.get("overheated", "not told"), cure=cure)
    folders = [machine.cpus / f"cpu{cpu}/thermal_throttle" for cpu in machine.arms]
    total = sum(int(read_line(file) or 0) for folder in folders for file in folder.glob("*_throttle_count"))
    if not total:
        return say(level="ok", found="never slowed down since boot")
    found = f"slowed down {total:,} times since boot, {now} of them now"
    return say(level="fail" if now else "warn", found=found, cure="Let it cool, and clear its vents.")
