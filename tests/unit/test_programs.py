"""Whose programs compute on a GPU: matched by process numbers, from a driver that stands in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bench.telemetry import programs
from bench.telemetry.gpu_reading import Program
from bench.telemetry.programs import Programs, Share


class Arm:
    """What `Programs` asks of usage.Usage."""

    def __init__(self, *pids: int, unlisted: str | None = None) -> None:
        self._pids, self.unlisted = list(pids), unlisted

    def pids(self) -> list[int]:
        return self._pids


class Gpus:
    """What `Programs` asks of nvml.Gpus: one GPU with whoever a test puts there."""

    devices = ({"uuid": "GPU-0"},)

    def __init__(self) -> None:
        self.running: tuple[Program, ...] | None = ()

    def programs(self) -> list[tuple[str, tuple[Program, ...] | None]]:
        return [("GPU-0", self.running)]


@pytest.fixture
def gpus() -> Any:
    return Gpus()


@pytest.fixture
def seen(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> Programs:
    monkeypatch.setattr(programs, "_sees_host_numbers", lambda root: True)
    return Programs(gpus)


def read(seen: Programs, **arms: Any) -> list[tuple[str, str, Share]]:
    return list(seen.read(arms))


def test_an_arms_processes_are_its_share_and_anybody_elses_are_foreign(gpus: Any, seen: Programs) -> None:
    gpus.running = (Program(10, 500, 30), Program(11, 20, None), Program(os.getpid(), 7, 1))
    assert read(seen, tf=Arm(10, 11), pt=Arm(12)) == [("tf", "GPU-0", Share(520, 30))]
    (program,) = seen.foreign["GPU-0"].items()
    assert program[0] == os.getpid()
    assert program[1]["name"] == Path("/proc/self/comm").read_text().strip()
    assert program[1]["memory_bytes"] == 7
    assert program[1]["first_ns"] <= program[1]["last_ns"]


def test_an_arm_that_is_watched_no_more_computes_a_moment_longer_and_is_not_foreign(gpus: Any, seen: Programs) -> None:
    gpus.running = (Program(10, 500),)
    read(seen, tf=Arm(10))
    read(seen)
    seen.forget()
    read(seen)
    assert seen.foreign == {}


def test_a_program_that_comes_back_keeps_its_first_moment_and_its_most_memory(gpus: Any, seen: Programs) -> None:
    for memory_bytes in (5, 9, None, 3):
        gpus.running = (Program(os.getpid(), memory_bytes),)
        read(seen)
    program = seen.foreign["GPU-0"][os.getpid()]
    assert program["memory_bytes"] == 9
    assert program["first_ns"] < program["last_ns"]
    seen.forget()
    assert seen.foreign == {}


def test_a_program_that_turns_out_to_be_an_arms_is_acquitted_and_one_that_is_gone_is_nobodys(
    gpus: Any, seen: Programs
) -> None:
    gpus.running = (Program(os.getpid(), 5), Program(2**22 + 1, 5))
    read(seen, tf=Arm(10))
    assert set(seen.foreign["GPU-0"]) == {os.getpid()}, "no process has the other number any more"
    read(seen, tf=Arm(10, os.getpid()))
    assert seen.foreign["GPU-0"] == {}


def test_where_an_arms_processes_cannot_all_be_told_nobody_is_foreign(gpus: Any, seen: Programs) -> None:
    gpus.running = (Program(10, 500), Program(os.getpid(), 5))
    assert read(seen, tf=Arm(10, unlisted="not seen")) == [("tf", "GPU-0", Share(500, None))]
    assert (seen.foreign, seen.null) == ({}, "not seen")
    read(seen, tf=Arm(10))
    assert (set(seen.foreign["GPU-0"]), seen.null) == ({os.getpid()}, None)


def test_a_driver_that_tells_nobody_makes_nobody_foreign(gpus: Any, seen: Programs) -> None:
    gpus.running = None
    assert read(seen, tf=Arm(10)) == []
    assert seen.foreign == {}


def test_in_another_pid_namespace_nothing_is_said_of_anybody(gpus: Any, tmp_path: Path) -> None:
    elsewhere = Programs(gpus, root=tmp_path)
    gpus.running = (Program(99, 5),)
    assert read(elsewhere, tf=Arm(10)) == []
    assert elsewhere.foreign == {}
    assert elsewhere.null == programs.ELSEWHERE
