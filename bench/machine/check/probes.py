"""How the machine is set up, one small probe a question, from files of /proc and /sys.

Sources: pyperf, "Tune the system for benchmarks" (its command `system tune`); google/benchmark,
docs/reducing_variance.md; LLVM, "Benchmarking tips"; Linux Documentation/admin-guide: pm/cpufreq.rst,
pm/intel_pstate.rst, cputopology.rst, kernel-parameters.txt, cgroup-v1/cpusets.rst (CPUs of isolcpus= are never
balanced); Mytkowicz et al. 2009, doi:10.1145/1508244.1508275 (ASLR stays on:
where others switch it off, one layout is measured; here every block draws a new one).
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from functools import partial

from bench.errors import EnvironmentUnavailable
from bench.machine import describe
from bench.machine.check.findings import ASK_THE_HOST, Finding, Level, Machine
from bench.machine.describe import cpu_numbers, read_line, read_text
from bench.text import listed, named

# Read without a system call, and steady: x86, KVM, Hyper-V, ARM.
GOOD_CLOCKS = frozenset({"tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"})
_NO_RANDOMIZE = 0x0040000  # ADDR_NO_RANDOMIZE of personality(2)


# ---------------------------------------------------------------- the processors


def governor(machine: Machine) -> Finding:
    """Whether the arms' CPUs keep to one clock."""
    say = partial(Finding, name="governor", why="A clock that follows the load changes speed inside a slice.")
    found = {read_line(machine.cpus / f"cpu{cpu}/cpufreq/scaling_governor") for cpu in machine.arms}
    known = sorted(name for name in found if name)
    if None in found:
        return say(
            level="unknown", found="no governor is shown (a virtual machine, or the firmware's)", cure=ASK_THE_HOST
        )
    if known == ["performance"]:
        return say(level="ok", found="performance")
    level: Level = "fail" if "powersave" in known else "warn"
    cure = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    return say(level=level, found=", ".join(known), cure=cure)


def turbo(machine: Machine) -> Finding:
    """Whether the clock may rise above its nominal value."""
    say = partial(Finding, name="turbo", why="A boosted clock depends on heat and on how busy the other cores are.")
    boost = describe.boost(machine.cpus)
    if boost is None:
        return say(
            level="unknown", found="no switch is shown (a virtual machine, or the firmware's)", cure=ASK_THE_HOST
        )
    if not boost:
        return say(level="ok", found="off")
    generic = (machine.cpus / "cpufreq/boost").exists()
    value, switch = (0, "cpufreq/boost") if generic else (1, "intel_pstate/no_turbo")
    return say(level="warn", found="on", cure=f"echo {value} | sudo tee /sys/devices/system/cpu/{switch}")


def smt(machine: Machine) -> Finding:
    """Whether others may run on the second thread of an arm's core."""
    say = partial(Finding, name="smt", why="Two threads of one core share its units and its first caches.")
    siblings = [
        cpu_numbers(read_line(machine.cpus / f"cpu{cpu}/topology/thread_siblings_list")) for cpu in machine.arms
    ]
    cores = [core for core in siblings if core is not None]
    if len(cores) < len(siblings):
        return say(level="unknown", found="the kernel shows no topology", cure=ASK_THE_HOST)
    others = frozenset().union(*cores) - machine.arms
    if not others and all(len(core) == 1 for core in cores):
        return say(level="ok", found="each of the arms' CPUs is a core of its own")
    control = read_line(machine.cpus / "smt/control")
    cure = "echo off | sudo tee /sys/devices/system/cpu/smt/control" if control == "on" else ASK_THE_HOST
    if others:
        found = f"{named(others)} share{'' if len(others) > 1 else 's'} a core with the arms' {named(machine.arms)}"
        if not others & machine.control:
            return say(level="note", found=f"{found}, and bench leaves it idle", cure=cure)
        return say(level="warn", found=found, cure=cure)
    return say(level="note", found=f"the arms' {named(machine.arms)} are threads of fewer cores", cure=cure)


def cores(machine: Machine) -> Finding:
    """Whether the harness and its sampler have a CPU apart from the arms'."""
    say = partial(Finding, name="cores", why="Harness and sampler wake up many times a second, in an arm's slices too.")
    if machine.spare:
        return say(level="ok", found=f"arms on {named(machine.arms)}, harness on {named(machine.spare)}")
    fewer = len(machine.arms) - 1
    cure = f"Use a machine with more CPUs{f', or set threads: {fewer} in the matrix' if fewer else ''}."
    return say(level="warn", found=f"harness and arms share {named(machine.arms)}", cure=cure)


def isolated(machine: Machine) -> Finding:
    """Whether the scheduler keeps others off the arms' CPU, and whether it can spread an arm's threads."""
    say = partial(Finding, name="isolated", why="An isolated CPU runs only what is put there, and is never balanced.")
    file = machine.cpus / "isolated"
    if not file.exists():
        return say(level="unknown", found="the kernel does not say", cure=ASK_THE_HOST)
    alone = cpu_numbers(read_line(file)) or frozenset()
    if len(machine.arms) > 1:
        if machine.arms & alone:
            found = f"{named(machine.arms & alone)} isolated: all threads of an arm stay on one of them"
            fewer = "Measure one thread there, or start bench on CPUs that are not isolated (taskset -c)."
            return say(level="fail", found=found, cure=fewer)
        return say(level="ok", found="the arms' CPUs are balanced, as several threads need")
    if machine.arms <= alone:
        return say(level="ok", found=f"the arms' {named(machine.arms)}")
    if alone:
        wanted = machine.spare - alone or frozenset({min(machine.usable)})
        cure = f"taskset -c {min(wanted)},{max(alone)} bench run --matrix"
        return say(level="note", found=f"{named(alone)}, which the arms do not use", cure=cure)
    return say(level="note", found="none", cure=_boot_with(f"isolcpus={listed(machine.arms)}"))


def numa(machine: Machine) -> Finding:
    """Whether the arms' CPUs reach all memory equally far."""
    say = partial(Finding, name="numa", why="Memory of another node is slower, and where it lies is chance.")
    nodes = {
        int(folder.name.removeprefix("node")): cpu_numbers(read_line(folder / "cpulist")) or frozenset()
        for folder in (machine.root / "sys/devices/system/node").glob("node[0-9]*")
    }
    used = sorted(node for node, cpus in nodes.items() if cpus & machine.arms)
    if not used:
        return say(level="unknown", found="the kernel shows no nodes", cure=ASK_THE_HOST)
    if len(used) == 1:
        return say(level="ok", found=f"the arms are on node {used[0]} of {len(nodes)}")
    largest = max((cpus & machine.usable for cpus in nodes.values()), key=len)
    found = f"the arms' {named(machine.arms)} lie on nodes {', '.join(map(str, used))}"
    if len(largest) < len(machine.arms):
        return say(level="warn", found=found, cure=f"Set threads: {len(largest)} in the matrix.")
    return say(level="warn", found=found, cure=f"taskset -c {listed(largest)} bench run --matrix")


# ---------------------------------------------------------------- the clock


def clocksource(machine: Machine) -> Finding:
    """Whether the kernel reads time from a steady counter, without a system call."""
    say = partial(Finding, name="clocksource", why="A slow clock adds its own microseconds to every step it times.")
    folder = machine.root / "sys/devices/system/clocksource/clocksource0"
    current = read_line(folder / "current_clocksource")
    if current is None:
        return say(level="unknown", found="the kernel does not say", cure=ASK_THE_HOST)
    if current in GOOD_CLOCKS:
        return say(level="ok", found=current)
    better = [name for name in (read_line(folder / "available_clocksource") or "").split() if name in GOOD_CLOCKS]
    cure = "The kernel has found no steady counter here (sudo dmesg | grep -i tsc says why): use another machine."
    if better:
        cure = f"echo {better[0]} | sudo tee /sys/devices/system/clocksource/clocksource0/current_clocksource"
    return say(level="warn", found=current, cure=cure)


def timer(_: Machine, *, clock: Callable[[], int] = time.perf_counter_ns) -> Finding:
    """What one reading of the clock costs, and the smallest step it makes; a slice of 10 ms bears 1 µs of cost."""
    say = partial(Finding, name="timer", why="Every step is timed by two readings of the clock.")
    cost_ns = statistics.median(clock() - clock() for _ in range(10_000)) * -1
    resolution_ns = min(_next_step(clock) for _ in range(20))
    level: Level = "ok"
    if cost_ns > 1_000 or resolution_ns > 10_000:
        level = "fail"
    elif cost_ns > 250 or resolution_ns > 1_000:
        level = "warn"
    cure = None if level == "ok" else "See the finding clocksource; on a busy machine, check again when it is idle."
    return say(level=level, found=f"{cost_ns:.0f} ns a reading, resolution {resolution_ns} ns", cure=cure)


def _next_step(clock: Callable[[], int]) -> int:
    first = clock()
    while (now := clock()) == first:
        pass
    return now - first


# ---------------------------------------------------------------- the kernel, the machine around it


def aslr(machine: Machine) -> Finding:
    """Whether every process gets a memory layout of its own."""
    say = partial(Finding, name="aslr", why="One frozen layout favours an arm in every block; random ones average out.")
    setting = read_line(machine.root / "proc/sys/kernel/randomize_va_space")
    personality = read_line(machine.root / "proc/self/personality")
    if setting is None:
        return say(level="unknown", found="the kernel does not say", cure="sysctl kernel.randomize_va_space")
    if personality and int(personality, 16) & _NO_RANDOMIZE:
        return say(level="warn", found="off for this process and its children", cure="Start bench without setarch -R.")
    if setting == "2":
        return say(level="ok", found="full")
    found = "off" if setting == "0" else "partial"
    return say(level="warn", found=found, cure="sudo sysctl -w kernel.randomize_va_space=2")


def huge_pages(machine: Machine) -> Finding:
    """Whether the kernel gives out transparent huge pages unasked."""
    say = partial(Finding, name="huge_pages", why="Huge pages given unasked come and go with how memory is fragmented.")
    text = read_line(machine.root / "sys/kernel/mm/transparent_hugepage/enabled")
    chosen = re.search(r"\[(\w+)\]", text or "")
    if not chosen:
        return say(level="unknown", found="the kernel does not say", cure=ASK_THE_HOST)
    if chosen[1] != "always":
        return say(level="ok", found=chosen[1])
    return say(level="note", found="always", cure="echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled")


def battery(machine: Machine) -> Finding:
    """Whether a laptop runs on its battery."""
    say = partial(Finding, name="battery", why="On battery a laptop lowers its clocks as it sees fit.")
    folder = machine.root / "sys/class/power_supply"
    if not folder.is_dir():
        return say(level="unknown", found="the kernel shows no power supplies", cure="Make sure that it is plugged in.")
    supplies = list(folder.iterdir())
    plugged = any(read_line(one / "online") == "1" and read_line(one / "type") != "Battery" for one in supplies)
    draining = any(
        read_line(one / "status") == "Discharging" and read_line(one / "scope") != "Device"  # a mouse's, say
        for one in supplies
    )
    if draining and not plugged:
        return say(level="fail", found="the battery drains", cure="Plug the power supply in.")
    return say(level="ok", found="not in use")


def virtual_machine(machine: Machine) -> Finding:
    """Whether this is a virtual machine."""
    say = partial(Finding, name="virtual_machine", why="Neighbours on the host share caches, memory and clock, unseen.")
    kind = describe.virtualization(machine.root)
    if kind is None:
        return say(level="unknown", found="neither the kernel nor systemd says", cure="systemd-detect-virt --vm")
    if kind == "none":
        return say(level="ok", found="no")
    found = "yes" if kind == "unknown" else f"yes ({kind})"
    cure = "Ratios measured in lockstep hold up; for absolute times use a machine of your own."
    return say(level="note", found=found, cure=cure)


def mitigations(machine: Machine) -> Finding:
    """Which of the processor's weaknesses the kernel works around."""
    say = partial(Finding, name="mitigations", why="They make system calls and switches dearer, for all arms alike.")
    texts = [read_line(file) or "" for file in (machine.cpus / "vulnerabilities").glob("*")]
    if not texts:
        return say(level="unknown", found="the kernel does not say", cure=ASK_THE_HOST)
    active = sum(text.startswith("Mitigation") for text in texts)
    found = f"{active} active, {sum(text.startswith('Vulnerable') for text in texts)} open, of {len(texts)}"
    if not active:
        return say(level="ok", found=found)
    return say(level="note", found=found, cure="Leave them on, and compare times with machines that have the same.")


def docker(_: Machine) -> Finding:
    """Whether a Docker engine answers this user."""
    from bench.engine.client import engine

    say = partial(Finding, name="docker", why="With no engine, workers run as local processes, which is as fair.")
    try:
        engine().close()
    except EnvironmentUnavailable as reason:
        sentence = str(reason)
        return say(level="note", found="no engine answers this user", cure=f"{sentence[0].upper()}{sentence[1:]}.")
    return say(level="ok", found="an engine answers")


def other_runs(machine: Machine) -> Finding:
    """Whether workers of another run are up: each would disturb the other's."""
    say = partial(
        Finding, name="other_runs", why="Two runs share caches, memory and heat, and CPUs where few are free."
    )
    if not (machine.root / "proc/self").exists():
        return say(level="unknown", found="/proc is not there", cure=ASK_THE_HOST)
    lines = [read_text(folder / "cmdline") or "" for folder in (machine.root / "proc").glob("[0-9]*")]
    workers = sum("\0-m\0workloads.worker" in line for line in lines)
    if not workers:
        return say(level="ok", found="none")
    cure = "Wait until that run is over, or stop it (Ctrl-C keeps its finished blocks)."
    return say(level="fail", found=f"{workers} worker{'s' * (workers > 1)} of another run", cure=cure)


def _boot_with(option: str) -> str:
    """Debian's and Ubuntu's way to a kernel parameter."""
    return f"sudo sed -i 's/^GRUB_CMDLINE_LINUX=\"/&{option} /' /etc/default/grub && sudo update-grub  # then reboot"
