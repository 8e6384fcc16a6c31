"""What `bench check` sees in a second of looking on: who is busy where, stolen time, pressure, heat."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checked import CPU, WELL, Write, sound, writer

from bench.machine.check import window as check_window
from bench.machine.check.findings import Machine
from bench.machine.check.window import Program, Window
from bench.telemetry.disturbances import OfMachine


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return writer(tmp_path)


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
