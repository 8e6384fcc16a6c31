"""Every probe of `bench check` on trees of files that are well, and then made ill in one place each; all together."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from checked import CLOCK, CPU, FILE_PROBES, MEMINFO, SCOPE, V1_MOUNT, WELL, Driver, Write, sound, writer
from rich.console import Console

from bench.errors import GateError, InputError
from bench.machine.check import inspect
from bench.machine.check import limits as check_limits
from bench.machine.check import probes as check_probes
from bench.machine.check.findings import WORST_FIRST, Finding, Machine


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return writer(tmp_path)


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
