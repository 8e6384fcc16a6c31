"""Every probe of `bench check` on trees of files that are well, and then made ill in one place each."""

from __future__ import annotations

import io
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from rich.console import Console
from stand_in_nvml import NvmlStandIn

from bench.errors import GateError, InputError
from bench.machine import describe
from bench.machine.check import gpu as check_gpu
from bench.machine.check import inspect
from bench.machine.check import limits as check_limits
from bench.machine.check import probes as check_probes
from bench.machine.check import window as check_window
from bench.machine.check.findings import WORST_FIRST, Finding, Machine
from bench.machine.check.window import Program, Window
from bench.telemetry.disturbances import OfMachine

CPU = "sys/devices/system/cpu"
CLOCK = "sys/devices/system/clocksource/clocksource0"
V2_MOUNT = "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1_MOUNT = "33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
MEMINFO = "MemTotal: 16777216 kB\nMemAvailable: {available} kB\nSwapTotal: {total} kB\nSwapFree: {free} kB\n"
# Four cores on one node, the arms on the last; nothing to complain of.
WELL = {
    **{f"{CPU}/cpu{cpu}/cpufreq/scaling_governor": "performance\n" for cpu in range(4)},
    **{f"{CPU}/cpu{cpu}/topology/thread_siblings_list": f"{cpu}\n" for cpu in range(4)},
    f"{CPU}/intel_pstate/no_turbo": "1\n",
    f"{CPU}/smt/control": "on\n",
    f"{CPU}/isolated": "3\n",
    f"{CPU}/vulnerabilities/meltdown": "Not affected\n",
    "sys/devices/system/node/node0/cpulist": "0-3\n",
    f"{CLOCK}/current_clocksource": "tsc\n",
    f"{CLOCK}/available_clocksource": "tsc hpet acpi_pm\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/class/power_supply/AC/type": "Mains\n",
    "sys/class/power_supply/AC/online": "1\n",
    "sys/class/power_supply/BAT0/type": "Battery\n",
    "sys/class/power_supply/BAT0/status": "Charging\n",
    "sys/fs/cgroup/cgroup.procs": "1\n",
    "sys/fs/cgroup/user.slice/cgroup.procs": "",
    "sys/fs/cgroup/user.slice/cpu.max": "max 100000\n",
    "sys/fs/cgroup/user.slice/me.scope/cgroup.procs": "7\n",
    "sys/fs/cgroup/user.slice/me.scope/cpu.max": "max 100000\n",
    "sys/fs/cgroup/user.slice/me.scope/cpu.stat": "usage_usec 9\nnr_periods 40\nnr_throttled 0\n",
    "proc/self/mountinfo": V2_MOUNT,
    "proc/self/cgroup": "0::/user.slice/me.scope\n",
    "proc/self/personality": "00000000\n",
    "proc/sys/kernel/randomize_va_space": "2\n",
    "proc/sys/vm/swappiness": "60\n",
    "proc/cpuinfo": "processor: 0\nflags: fpu avx2\n",
    "proc/meminfo": MEMINFO.format(available=8 * 2**20, total=0, free=0),
    "proc/loadavg": "0.10 0.20 0.30 1/200 4000\n",
}
SCOPE = "sys/fs/cgroup/user.slice/me.scope"
FILE_PROBES = [probe for probe in inspect.PROBES if probe.__name__ not in ("cores", "disk", "timer", "docker")]

Write = Callable[..., Machine]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A machine of these files, the arms on its last CPU."""

    def write(files: dict[str, str], *, arms: frozenset[int] = frozenset({3}), control: str = "0-2") -> Machine:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Machine(root=tmp_path, arms=arms, control=describe.cpu_numbers(control) or frozenset())

    return write


def sound(finding: Finding) -> Finding:
    """What must hold of any finding: a cure where there is something to cure; a command that a shell can read."""
    assert (finding.cure is None) == (finding.level == "ok"), finding
    assert finding.found, finding
    assert finding.why.endswith("."), finding
    for text in (finding.found, finding.cure or ""):
        assert "\n" not in text
    if finding.cure and not finding.cure.endswith("."):
        subprocess.run(["bash", "-n", "-c", finding.cure], check=True)
    return finding


# ---------------------------------------------------------------- settings and limits


@pytest.mark.parametrize("probe", FILE_PROBES, ids=lambda probe: probe.__name__)
def test_a_machine_that_is_well_is_ok(write: Write, probe: Callable[[Machine], Finding]) -> None:
    assert sound(probe(write(WELL))).level == "ok"


@pytest.mark.parametrize("probe", FILE_PROBES, ids=lambda probe: probe.__name__)
def test_what_cannot_be_read_is_unknown_and_never_ok(write: Write, probe: Callable[[Machine], Finding]) -> None:
    assert sound(probe(write({}))).level == "unknown"


BATTERY = "sys/class/power_supply/BAT0/status"
MAINS = "sys/class/power_supply/AC/online"
THP = "sys/kernel/mm/transparent_hugepage/enabled"
ILL = [
    ("governor", {f"{CPU}/cpu3/cpufreq/scaling_governor": "powersave"}, "fail", "powersave", "echo performance"),
    ("governor", {f"{CPU}/cpu3/cpufreq/scaling_governor": "schedutil"}, "warn", "schedutil", "echo performance"),
    ("governor", {f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave"}, "ok", "performance", ""),
    ("turbo", {f"{CPU}/intel_pstate/no_turbo": "0"}, "warn", "on", "echo 1 | sudo tee /" + CPU + "/intel_pstate/no_t"),
    ("turbo", {f"{CPU}/cpufreq/boost": "1"}, "warn", "on", "echo 0 | sudo tee /" + CPU + "/cpufreq/boost"),
    ("smt", {f"{CPU}/cpu3/topology/thread_siblings_list": "1,3"}, "warn", "CPU 1 shares a core", "echo off | sudo tee"),
    (
        "smt",
        {f"{CPU}/cpu3/topology/thread_siblings_list": "1,3", f"{CPU}/smt/control": "notsupported"},
        "warn", "CPU 1", "Ask whoever",
    ),
    ("isolated", {f"{CPU}/isolated": "\n"}, "note", "none", "isolcpus=3 "),
    ("isolated", {f"{CPU}/isolated": "1-2\n"}, "note", "CPUs 1-2", "taskset -c 0,2 bench run --matrix"),
    ("quota", {f"{SCOPE}/cpu.max": "50000 100000"}, "fail", "0.50 CPUs", f"echo max | sudo tee /{SCOPE}/cpu.max"),
    ("quota", {"sys/fs/cgroup/user.slice/cpu.max": "150000 100000"}, "fail", "1.50 CPUs", "/user.slice/cpu.max"),
    (
        "quota",
        {f"{SCOPE}/cpu.max": "150000 100000", "sys/fs/cgroup/user.slice/cpu.max": "50000 100000"},
        "fail", "0.50 CPUs", "/user.slice/cpu.max",
    ),
    ("quota", {f"{SCOPE}/cpu.max": "400000 100000"}, "note", "4.00 CPUs of the 4", "echo max"),
    (
        "quota",
        {f"{SCOPE}/cpu.max": "50000 100000", f"{SCOPE}/cpu.stat": "nr_periods 9\nnr_throttled 7\n"},
        "fail", "7 periods throttled", "echo max",
    ),
    (
        "quota",
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000"},
        "fail", "0.50 CPUs", "Start this container without --cpus",
    ),
    ("memory", {"proc/meminfo": MEMINFO.format(available=900_000, total=0, free=0)}, "fail", "0.9 GiB", "ps -eo"),
    ("memory", {"proc/meminfo": MEMINFO.format(available=1_500_000, total=0, free=0)}, "warn", "1.4 GiB", "ps -eo"),
    ("memory", {f"{SCOPE}/memory.max": "536870912"}, "fail", "0.5 GiB", "ps -eo"),
    ("swap", {"proc/meminfo": MEMINFO.format(available=2**20, total=99999, free=50847)}, "warn", "48 MiB", "swapoff"),
    ("swap", {"proc/meminfo": MEMINFO.format(available=9, total=2**20, free=0)}, "warn", "1024 MiB", "Close what"),
    ("swap", {"proc/meminfo": MEMINFO.format(available=9, total=9, free=9)}, "note", "swappiness 60", "swappiness=1"),
    ("clocksource", {f"{CLOCK}/current_clocksource": "hpet"}, "warn", "hpet", f"echo tsc | sudo tee /{CLOCK}/current"),
    (
        "clocksource",
        {f"{CLOCK}/current_clocksource": "hpet", f"{CLOCK}/available_clocksource": "hpet acpi_pm"},
        "warn", "hpet", "use another machine.",
    ),
    ("aslr", {"proc/sys/kernel/randomize_va_space": "0"}, "warn", "off", "kernel.randomize_va_space=2"),
    ("aslr", {"proc/sys/kernel/randomize_va_space": "1"}, "warn", "partial", "kernel.randomize_va_space=2"),
    ("aslr", {"proc/self/personality": "00040000"}, "warn", "off for this process", "setarch -R"),
    ("huge_pages", {THP: "[always] madvise never"}, "note", "always", f"echo madvise | sudo tee /{THP}"),
    ("battery", {BATTERY: "Discharging", MAINS: "0"}, "fail", "drains", "Plug"),
    ("battery", {BATTERY: "Discharging"}, "ok", "not in use", ""),
    ("battery", {BATTERY: "Discharging", MAINS: "0", BATTERY.replace("status", "scope"): "Device"}, "ok", "not", ""),
    ("virtual_machine", {"proc/cpuinfo": "flags: fpu hypervisor\n"}, "note", "yes", "Ratios"),
    ("mitigations", {f"{CPU}/vulnerabilities/spectre_v2": "Mitigation: Retpolines"}, "note", "1 active", "Leave them"),
    ("numa", {"sys/devices/system/node/node0/cpulist": "0-2"}, "unknown", "no nodes", "Ask"),
    ("other_runs", {"proc/77/cmdline": "python\0-m\0workloads.worker\0"}, "fail", "1 worker of", "Wait"),
    ("other_runs", {"proc/77/cmdline": "grep\0workloads.worker\0"}, "ok", "none", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes", "level", "found", "cure"), ILL, ids=[f"{row[0]}-{row[2]}-{i}" for i, row in enumerate(ILL)]
)
def test_each_ill_is_found_with_its_level_and_its_cure(
    write: Write, name: str, changes: dict[str, str], level: str, found: str, cure: str
) -> None:
    (probe,) = (probe for probe in inspect.PROBES if probe.__name__ == name)
    finding = sound(probe(write({**WELL, **changes})))
    assert (finding.name, finding.level) == (name, level)
    assert found in finding.found
    assert cure in (finding.cure or "")


def test_a_quota_of_control_groups_version_1_is_found(write: Write) -> None:
    group = "sys/fs/cgroup/cpu/jobs"
    files = {
        "proc/self/mountinfo": V1_MOUNT,
        "proc/self/cgroup": "2:cpu:/jobs\n",
        "sys/fs/cgroup/cpu/cgroup.procs": "",
        f"{group}/cgroup.procs": "7\n",
        f"{group}/cpu.cfs_period_us": "100000\n",
        f"{group}/cpu.stat": "nr_periods 9\nnr_throttled 3\nthrottled_time 1\n",
    }
    free = {**WELL, **files, f"{group}/cpu.cfs_quota_us": "-1\n"}
    assert check_limits.quota(write(free)).level == "ok"
    finding = sound(check_limits.quota(write({f"{group}/cpu.cfs_quota_us": "25000\n"})))
    assert (finding.level, finding.cure) == ("fail", f"echo -1 | sudo tee /{group}/cpu.cfs_quota_us")
    assert finding.found == "0.25 CPUs of the 4 usable, 3 periods throttled so far"


def test_several_threads_want_cores_of_their_own_on_one_node_and_none_isolated(write: Write) -> None:
    pair = frozenset({2, 3})
    machine = write({**WELL, f"{CPU}/isolated": "\n"}, arms=pair, control="0-1")
    assert check_probes.isolated(machine).level == "ok"
    machine = write({f"{CPU}/isolated": "2-3\n"}, arms=pair, control="0-1")
    assert sound(check_probes.isolated(machine)).level == "fail"
    for cpu in (2, 3):
        machine = write({f"{CPU}/cpu{cpu}/topology/thread_siblings_list": "2-3\n"}, arms=pair, control="0-1")
    assert sound(check_probes.smt(machine)).level == "note"
    nodes = "sys/devices/system/node/node{}/cpulist"
    machine = write({nodes.format(0): "0-2\n", nodes.format(1): "3\n"}, arms=pair, control="0-1")
    finding = sound(check_probes.numa(machine))
    assert (finding.level, finding.cure) == ("warn", "taskset -c 0-2 bench run --matrix")
    machine = write({nodes.format(0): "0,2\n", nodes.format(1): "1,3\n"}, arms=frozenset({1, 2, 3}), control="0")
    assert "threads: 2 in" in str(sound(check_probes.numa(machine)).cure)


def test_siblings_that_bench_leaves_idle_are_worth_a_note_alone(write: Write) -> None:
    machine = replace(write({**WELL, f"{CPU}/cpu3/topology/thread_siblings_list": "1,3\n"}), control=frozenset({0, 2}))
    finding = sound(check_probes.smt(replace(machine, idle=frozenset({1}))))
    assert (finding.level, finding.found) == (
        "note", "CPU 1 shares a core with the arms' CPU 3, and bench leaves it idle",
    )  # fmt: skip
    assert replace(machine, idle=frozenset({1})).usable == {0, 1, 2, 3}


def test_a_harness_without_a_cpu_of_its_own_is_a_warning(write: Write) -> None:
    assert sound(check_probes.cores(write(WELL))).level == "ok"
    shared = sound(check_probes.cores(write(WELL, arms=frozenset({0, 1}), control="0-1")))
    assert (shared.level, shared.found) == ("warn", "harness and arms share CPUs 0-1")
    assert "or set threads: 1 in the matrix" in str(shared.cure)


@pytest.mark.parametrize(
    ("free_gib", "inodes", "first", "level"),
    [
        (3.0, 10**6, True, "fail"),
        (3.0, 10**6, False, "ok"),
        (5.0, 10**6, True, "warn"),
        (90.0, 10**6, True, "ok"),
        (0.5, 10**6, False, "fail"),
        (90.0, 20_000, True, "fail"),
        (90.0, 0, True, "ok"),
    ],
)
def test_a_disk_needs_more_room_before_the_first_run(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gib: float, inodes: int, first: bool, level: str
) -> None:
    """No inodes at all is a file system that does not count them."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    if not first:
        (tmp_path / "cache" / "wheelhouse").mkdir(parents=True)
        (tmp_path / "cache" / "wheelhouse" / "a.whl").touch()
    room = SimpleNamespace(f_bavail=int(free_gib * 2**18), f_frsize=4096, f_files=inodes, f_favail=inodes)
    monkeypatch.setattr(os, "statvfs", lambda _: room)
    assert sound(check_limits.disk(write(WELL))).level == level


def test_a_cache_folder_that_cannot_be_made_fails(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "file" / "cache"))
    finding = sound(check_limits.disk(write(WELL)))
    assert finding.level == "fail"
    assert str(tmp_path) not in finding.found


def ticking(*, cost_ns: int, resolution_ns: int) -> Callable[[], int]:
    """A clock that each reading moves on by its cost, shown in steps of its resolution."""
    now = iter(range(0, 10**15, cost_ns))
    return lambda: next(now) // resolution_ns * resolution_ns


@pytest.mark.parametrize(
    ("cost_ns", "resolution_ns", "level"),
    [(50, 1, "ok"), (400, 1, "warn"), (1_500, 1, "fail"), (50, 4_000, "warn"), (50, 4_000_000, "fail")],
)
def test_a_slow_or_a_coarse_clock_is_found(write: Write, cost_ns: int, resolution_ns: int, level: str) -> None:
    finding = sound(check_probes.timer(write(WELL), clock=ticking(cost_ns=cost_ns, resolution_ns=resolution_ns)))
    assert finding.level == level


# ---------------------------------------------------------------- a second of looking on

CALM = OfMachine(throttled=0, overheated=0, pressure_cpu_s=0.0, pressure_memory_s=0.0, pressure_io_s=0.0)
MACHINE = Machine(root=Path("/nonexistent"), arms=frozenset({3}), control=frozenset({0, 1, 2}))


def window(
    *, user: int = 0, idle: int = 100, steal: int = 0, programs: tuple[Program, ...] = (), **gained: Any
) -> Window:
    """One second in which the arms' CPU did this many hundredths of each."""
    return Window(
        seconds=1.0,
        ticks={3: (user, 0, 0, idle, 0, 0, 0, steal)},
        gained=CALM._replace(**gained),
        nulls={"pressure_io_s": "No such file or directory", "overheated": "the kernel shows no thermal_throttle"},
        programs=programs,
    )


@pytest.mark.parametrize(("user", "level"), [(0, "ok"), (5, "ok"), (6, "warn"), (20, "warn"), (21, "fail")])
def test_busy_cpus_of_the_arms_are_found_and_those_of_the_harness_are_not(user: int, level: str) -> None:
    finding = sound(check_window.busy(MACHINE, window(user=user, idle=100 - user)))
    assert finding.level == level
    assert f"CPU 3 is {user}% busy" in finding.found


def test_who_is_busy_is_named_together_and_can_be_moved_away() -> None:
    programs = tuple(
        Program(name=name, pid=pid, share=share, there=True)
        for name, pid, share in [
            ("cc1", 11, 0.5),
            ("backup", 12, 0.4),
            ("cc1", 13, 0.3),
            ("a", 14, 0.2),
            ("b", 15, 0.1),
        ]
    )
    finding = sound(check_window.busy(MACHINE, window(user=90, idle=10, programs=programs)))
    assert finding.found == "CPU 3 is 90% busy: cc1 80%, backup 40%, a 20%"
    assert finding.cure == 'for pid in 11 12 13 14; do sudo taskset -acp 0-2 "$pid"; done'
    alone = sound(check_window.busy(MACHINE, window(user=90, idle=10, programs=programs[:1])))
    assert alone.cure == "sudo taskset -acp 0-2 11"
    nowhere = replace(MACHINE, control=MACHINE.arms)
    assert "top" in str(sound(check_window.busy(nowhere, window(user=90, idle=10, programs=programs))).cure)


def test_who_runs_on_the_arms_cpus_is_named_before_who_only_may() -> None:
    programs = (
        Program(name="there", pid=1, share=0.2, there=True),
        *(Program(name=name, pid=2, share=0.9, there=False) for name in ("elsewhere", "apart", "away")),
    )
    finding = sound(check_window.busy(MACHINE, window(user=90, idle=10, programs=programs)))
    assert finding.found == "CPU 3 is 90% busy: there 20%, elsewhere 90%, apart 90%"


def test_waiting_for_a_disk_is_not_being_busy() -> None:
    assert check_window.busy(MACHINE, replace(window(), ticks={3: (0, 0, 0, 10, 90, 0, 0, 0)})).level == "ok"


@pytest.mark.parametrize(("steal", "level"), [(0, "ok"), (1, "warn"), (2, "warn"), (3, "fail")])
def test_stolen_time_is_found(steal: int, level: str) -> None:
    assert sound(check_window.steal(window(idle=100 - steal, steal=steal))).level == level


@pytest.mark.parametrize(
    ("resource", "waited_s", "level"),
    [
        ("cpu", 0.09, "ok"),
        ("cpu", 0.11, "warn"),
        ("memory", 0.009, "ok"),
        ("memory", 0.02, "warn"),
        ("io", 0.09, "ok"),
        ("io", 0.2, "warn"),
        ("io", None, "unknown"),
    ],
)
def test_pressure_above_a_share_of_the_time_is_a_warning(resource: str, waited_s: float | None, level: str) -> None:
    finding = sound(check_window.pressure(window(**{f"pressure_{resource}_s": waited_s}), resource))
    assert (finding.name, finding.level) == (f"pressure_{resource}", level)


@pytest.mark.parametrize(
    ("since_boot", "now", "level"), [(0, 0, "ok"), (4, 0, "warn"), (4, 1, "fail"), (4, None, "unknown")]
)
def test_heat_is_a_warning_and_fails_while_it_lasts(write: Write, since_boot: int, now: int | None, level: str) -> None:
    machine = write({f"{CPU}/cpu3/thermal_throttle/core_throttle_count": f"{since_boot}\n"})
    assert sound(check_window.thermal(machine, window(overheated=now))).level == level


@pytest.mark.parametrize(("load", "level"), [("1.99 0 0", "ok"), ("2.01 0 0", "warn")])
def test_a_load_above_half_of_the_cpus_is_a_warning(write: Write, load: str, level: str) -> None:
    assert sound(check_window.load(write({**WELL, "proc/loadavg": load}))).level == level


def test_looking_for_no_time_at_all_tells_nothing(write: Write) -> None:
    machine = write({**WELL, "proc/stat": "cpu3 1 0 0 9 0 0 0 0 0 0\n"})
    seen = check_window.watch(machine, 0)
    levels = {finding.name: sound(finding).level for finding in check_window.findings(machine, seen)}
    assert levels["busy"] == levels["steal"] == levels["pressure_cpu"] == levels["thermal"] == "unknown"


def process(*, name: str, ticks: int, start: int = 500, cpu: int = 3) -> str:
    """A line of /proc/<pid>/stat: fields 14 and 15 are user and system ticks, 22 is the start, 39 the last CPU."""
    return f"7 ({name}) R 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 {start} {'0 ' * 16}{cpu} 0 0\n"


def test_programs_are_told_by_what_they_used_meanwhile_and_by_where_they_may_run(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {11: "busy)loop (x)", 12: "pinned away", 13: "asleep", 14: "reborn\x1b[31m", 15: "gone"}
    allowed = {11: "2-3", 12: "0-2", 13: "0-3", 14: "3", 15: "3"}
    files = {f"proc/{pid}/stat": process(name=name, ticks=1000) for pid, name in names.items()}
    status = {f"proc/{pid}/status": f"Name:\tx\nCpus_allowed_list:\t{cpus}\n" for pid, cpus in allowed.items()}
    heat = {f"{CPU}/cpu3/thermal_throttle/{part}_throttle_count": "2\n" for part in ("core", "package")}
    pressure = {
        f"proc/pressure/{name}": "some avg10=0.00 total=5\nfull avg10=0 total=1\n" for name in ("cpu", "memory", "io")
    }
    stat = {"proc/stat": "cpu  1 1\ncpu0 1 0 0 9 0 0 0 0 0 0\ncpu3 1 0 0 9 0 0 0 0 0 0\n"}
    machine = write({**files, **status, **heat, **pressure, **stat})

    def meanwhile(_: float) -> None:
        later = {11: process(name=names[11], ticks=1090), 12: process(name=names[12], ticks=1080)}
        later |= {14: process(name=names[14], ticks=5, start=900), 16: process(name="elsewhere", ticks=95, cpu=0)}
        write({f"proc/{pid}/stat": line for pid, line in later.items()})
        write({"proc/16/status": status["proc/11/status"], "proc/stat": "cpu3 91 0 0 19 0 0 0 0 0 0\n"})
        (machine.root / "proc/15/stat").unlink()

    monkeypatch.setattr(time, "sleep", meanwhile)
    seen = check_window.watch(machine, 1.0)
    assert [(one.name, one.pid) for one in seen.programs] == [
        ("busy)loop (x)", 11), ("reborn[31m", 14), ("elsewhere", 16),
    ]  # fmt: skip
    assert seen.programs[0].share == pytest.approx(seen.programs[1].share * 90 / 5)
    assert check_window.busy(machine, seen).found.startswith("CPU 3 is 90% busy: busy)loop (x) ")
    assert seen.ticks == {3: (90, 0, 0, 10, 0, 0, 0, 0)}
    assert (seen.gained.overheated, seen.gained.pressure_io_s) == (0, 0.0)


# ---------------------------------------------------------------- GPUs


class Driver(NvmlStandIn):
    """A stand-in for the module pynvml: one GPU that is well, with what a test changes; an int is an error's code."""

    def __init__(self, **changes: Any) -> None:
        well = {
            "SystemGetDriverVersion": "580.65", "DeviceGetCount": 1, "DeviceGetHandleByIndex": 0,
            "DeviceGetName": "NVIDIA H100", "DeviceGetUUID": "GPU-0", "DeviceGetMemoryInfo": SimpleNamespace(total=80),
            "Init": None, "Shutdown": None, "DeviceGetPersistenceMode": 1, "DeviceGetTemperatureThreshold": 90,
            "DeviceGetTemperature": 40, "DeviceGetCurrentClocksThrottleReasons": 1, "DeviceGetMigMode": [0, 0],
            "DeviceGetComputeRunningProcesses_v3": [],
        }  # fmt: skip
        self._answers = {**well, **changes}

    def __getattr__(self, name: str) -> Any:
        if name.removeprefix("nvml") not in self._answers:
            return super().__getattr__(name)
        answer = self._answers[name.removeprefix("nvml")]

        def call(*_: object, **__: object) -> Any:
            if isinstance(answer, pynvml.NVMLError):
                raise answer
            return answer

        return call


def gpu(root: Path, **changes: Any) -> dict[str, Finding]:
    return {one.name: sound(one) for one in check_gpu.findings(root, api=Driver(**changes))}


def test_a_gpu_that_is_well_is_ok_but_for_what_nvml_cannot_tell(tmp_path: Path) -> None:
    found = gpu(tmp_path)
    levels = {name: one.level for name, one in found.items()}
    assert levels == {
        "gpu0_persistence": "ok", "gpu0_clocks": "unknown", "gpu0_temperature": "ok", "gpu0_programs": "ok",
        "gpu0_mig": "ok",
    }  # fmt: skip
    assert found["gpu0_clocks"].cure == "sudo nvidia-smi -i 0 --lock-gpu-clocks=tdp,tdp"


NO = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
LOST = pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)


@pytest.mark.parametrize(
    ("call", "answer", "name", "level", "words"),
    [
        ("PersistenceMode", 0, "persistence", "warn", "off"),
        ("PersistenceMode", NO, "persistence", "unknown", "Not Supported"),
        ("CurrentClocksThrottleReasons", 0x40, "clocks", "fail", "slowed down"),
        ("CurrentClocksThrottleReasons", NO, "clocks", "unknown", "Not Supported"),
        ("Temperature", 76, "temperature", "warn", "76 °C, slows itself at 90 °C"),
        ("TemperatureThreshold", NO, "temperature", "unknown", "slowdown_c: Not Supported"),
        (
            "ComputeRunningProcesses_v3",
            [SimpleNamespace(pid=5), SimpleNamespace(pid=6)],
            "programs",
            "fail",
            "2: train, one",
        ),
        ("ComputeRunningProcesses_v3", LOST, "programs", "unknown", "GPU is lost"),
        ("MigMode", [1, 1], "mig", "note", "on"),
        ("MigMode", NO, "mig", "ok", "not a GPU that can be partitioned"),
        ("MigMode", LOST, "mig", "unknown", "GPU is lost"),
    ],
)
def test_each_ill_of_a_gpu_is_found(tmp_path: Path, call: str, answer: Any, name: str, level: str, words: str) -> None:
    (tmp_path / "proc/5").mkdir(parents=True)
    (tmp_path / "proc/5/comm").write_text("train\n")
    finding = gpu(tmp_path, **{f"DeviceGet{call}": answer})[f"gpu0_{name}"]
    assert finding.level == level
    assert words in finding.found


def test_a_replayed_gpu_is_none_and_a_driver_that_fails_is_unknown(tmp_path: Path) -> None:
    assert gpu(tmp_path, DeviceGetName="STUB-GPU (replay)") == {}
    (finding,) = gpu(tmp_path, Init=pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)).values()
    assert (finding.name, finding.level) == ("gpu", "unknown")


# ---------------------------------------------------------------- together


def test_one_look_has_every_finding_once_and_no_gpu_where_none_is_measured(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver()
    monkeypatch.setattr("bench.telemetry.nvml._binding", lambda: driver)
    monkeypatch.setattr(inspect, "PROBES", FILE_PROBES)
    root = write(WELL).root
    for gpu, expected in ((False, len(FILE_PROBES) + 7), (True, len(FILE_PROBES) + 7 + 5)):
        names = [sound(one).name for one in inspect.inspect(root=root, seconds=0.0, gpu=gpu)]
        assert len(set(names)) == len(names) == expected


def test_more_threads_than_cpus_are_bad_input() -> None:
    with pytest.raises(InputError, match="threads: 4096 is not to be had here"):
        inspect.inspect(threads=4096, seconds=0.0)


def finding(name: str, level: Any, cure: str | None = "Wait.") -> Finding:
    return Finding(name=name, level=level, found=f"{name} was found", why="It disturbs.", cure=cure)


def test_the_gate_names_every_failing_finding_in_one_sentence_and_no_other() -> None:
    found = [finding("busy", "fail"), finding("turbo", "warn"), finding("quota", "fail"), finding("x", "unknown")]
    with pytest.raises(GateError) as caught:
        inspect.gate(found)
    assert "(busy: busy was found; quota: quota was found)" in str(caught.value)
    assert "turbo" not in str(caught.value)
    assert caught.value.exit_code == 1
    inspect.gate([one for one in found if one.level != "fail"])


def table(*found: Finding) -> Iterator[str]:
    out = io.StringIO()
    inspect.print_table(found, Console(file=out, width=80))
    return iter(out.getvalue().splitlines())


def test_the_table_is_worst_first_in_words_and_fits_80_columns() -> None:
    lines = list(
        table(*(finding(f"f_{level}", level, None if level == "ok" else "Wait.") for level in reversed(WORST_FIRST)))
    )
    heads = [line.split()[:3] for line in lines if line[:1] in "✗!?·✓" and line.strip()]
    assert heads == [
        ["✗", "fail", "f_fail"], ["!", "warn", "f_warn"], ["?", "unknown", "f_unknown"], ["·", "note", "f_note"],
        ["✓", "ok", "f_ok"],
    ]  # fmt: skip
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "1 fail, 1 warn, 1 unknown, 1 note, 1 ok"


def test_a_command_is_one_line_however_long_it_is() -> None:
    command = check_probes._boot_with("isolcpus=3")
    assert len(command) > 80
    assert f"  {command}" in [line.rstrip() for line in table(finding("isolated", "note", command))]


def test_json_is_a_list_of_findings() -> None:
    (record,) = json.loads(inspect.as_json([finding("turbo", "ok", None)]))
    assert record == {"name": "turbo", "level": "ok", "found": "turbo was found", "why": "It disturbs.", "cure": None}
