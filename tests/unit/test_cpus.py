"""Who runs where, on machines made of files: laptops, hybrids, servers, virtual machines, and what is set aside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from bench.errors import InputError
from bench.machine import cpus
from bench.machine.cpus import Placement, choose
from bench.machine.describe import cpu_numbers
from bench.text import listed, named

CPU = "sys/devices/system/cpu"
Machine = Callable[..., Path]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    def machine(
        cores: Collection[Collection[int]],
        *,
        nodes: Collection[str] = (),
        online: str | None = None,
        isolated: str = "",
        **files: str,
    ) -> Path:
        """A tree of these cores, each the numbers of its threads; `files` by their path under /sys/devices."""
        count = sum(map(len, cores))
        told = {f"{CPU}/online": online or f"0-{count - 1}", f"{CPU}/isolated": isolated}
        for core in cores:
            told |= {f"{CPU}/cpu{cpu}/topology/thread_siblings_list": listed(core) for cpu in core}
        told |= {f"sys/devices/system/node/node{number}/cpulist": text for number, text in enumerate(nodes)}
        told |= {f"sys/devices/{name}": text for name, text in files.items()}
        for name, text in told.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return tmp_path

    return machine


def placed(root: Path, *threads: int, usable: Collection[int] = range(256), **shares: float) -> Placement:
    """Where they run; `shares` by CPU, as cpu3=0.9, are what others took of it."""
    topology = cpus.read(usable, root=root)
    return cpus.place(topology, threads, {int(name.removeprefix("cpu")): share for name, share in shares.items()})


def arms(found: Placement) -> dict[int, set[int]]:
    return {count: set(own) for count, own in found.arms.items()}


# ---------------------------------------------------------------- cores and their threads

HALVES = [(cpu, cpu + 4) for cpu in range(4)]  # a laptop of four cores: i and i + N/2 are one
PAIRS = [(2 * core, 2 * core + 1) for core in range(4)]  # the other way to count: 2i and 2i + 1


def test_no_thread_of_the_arms_core_is_the_harnesss(machine: Machine) -> None:
    found = placed(machine(HALVES), 1)
    assert (arms(found), found.control, found.idle) == ({1: {7}}, {0, 1, 2, 4, 5, 6}, {3})
    assert found.topology == "known"


def test_threads_get_a_core_each_however_siblings_are_counted(machine: Machine) -> None:
    found = placed(machine(HALVES), 2)
    assert (arms(found), found.control, found.idle) == ({2: {6, 7}}, {0, 1, 4, 5}, {2, 3})


def test_threads_get_a_core_each_where_siblings_are_neighbours(machine: Machine) -> None:
    found = placed(machine(PAIRS), 2)
    assert (arms(found), found.control, found.idle) == ({2: {5, 7}}, {0, 1, 2, 3}, {4, 6})


def test_newer_kernels_name_the_siblings_otherwise(machine: Machine) -> None:
    root = machine(HALVES)
    for cpu in range(8):
        folder = root / f"{CPU}/cpu{cpu}/topology"
        (folder / "thread_siblings_list").rename(folder / "core_cpus_list")
    assert arms(placed(root, 2)) == {2: {6, 7}}


def test_the_harness_has_second_threads_where_the_arms_have_every_core(machine: Machine) -> None:
    found = placed(machine(PAIRS), 4)
    assert (arms(found), found.control, found.idle) == ({4: {1, 3, 5, 7}}, {0, 2, 4, 6}, set())
    assert "beside them on the same cores" in found.why


def test_more_threads_than_cores_fill_all_first_threads_before_a_second_one(machine: Machine) -> None:
    found = placed(machine(PAIRS), 3, 5)
    assert arms(found) == {3: {7, 5, 3}, 5: {7, 5, 3, 1, 6}}
    assert found.control == {0}, "it is a sibling of the larger arm alone"
    assert "more threads than cores" in found.why


def test_harness_and_arms_share_where_no_cpu_is_left(machine: Machine) -> None:
    found = placed(machine([(0,), (1,)]), 2)
    assert (arms(found), found.control) == ({2: {0, 1}}, {0, 1})
    assert "the harness on their CPUs too, since no other is left" in found.why


def test_where_it_must_share_the_harness_keeps_off_the_smaller_arm(machine: Machine) -> None:
    found = placed(machine([(0,), (1,), (2,), (3,)]), 1, 4)
    assert (arms(found), found.control) == ({1: {3}, 4: {0, 1, 2, 3}}, {0, 1, 2})


def test_two_threads_of_the_only_core_are_told_apart(machine: Machine) -> None:
    found = placed(machine([(0, 1)]), 1)
    assert (arms(found), found.control) == ({1: {1}}, {0})


@pytest.mark.parametrize(
    ("threads", "expected", "control"),
    [
        ((1, 2), {1: {3}, 2: {2, 3}}, {0, 1}),
        ((2, 3), {2: {2, 3}, 3: {1, 2, 3}}, {0}),
        ((3, 1, 2, 1), {1: {3}, 2: {2, 3}, 3: {1, 2, 3}}, {0}),
    ],
)
def test_fewer_threads_run_within_the_processors_of_more_and_none_is_the_harnesss(
    machine: Machine, threads: tuple[int, ...], expected: dict[int, set[int]], control: set[int]
) -> None:
    found = placed(machine([(0,), (1,), (2,), (3,)]), *threads)
    assert (arms(found), found.control) == (expected, control)


# ---------------------------------------------------------------- kinds and nodes

# Two performance cores of two threads, four efficiency cores of one, counted after them.
HYBRID = [(0, 1), (2, 3), (4,), (5,), (6,), (7,)]
TYPES = {"cpu_core/cpus": "0-3", "cpu_atom/cpus": "4-7"}


@pytest.mark.parametrize(
    ("threads", "expected", "control"),
    [
        (1, {3}, {0, 1, 4, 5, 6, 7}),
        (2, {1, 3}, {4, 5, 6, 7}),
        (3, {5, 6, 7}, {0, 1, 2, 3, 4}),  # the fastest kind that has three cores
        (5, {1, 3, 5, 6, 7}, {4}),  # of several kinds, before two threads share a core
    ],
)
def test_a_hybrid_processors_arms_have_cores_of_one_kind_the_fastest_that_has_so_many(
    machine: Machine, threads: int, expected: set[int], control: set[int]
) -> None:
    found = placed(machine(HYBRID, **TYPES), threads)
    assert (found.arms[threads], found.control) == (expected, control)


def test_a_busy_fast_core_is_still_the_fast_one(machine: Machine) -> None:
    assert arms(placed(machine(HYBRID, **TYPES), 1, cpu0=0.9, cpu2=0.9)) == {1: {3}}


def each(name: str, *values: int) -> dict[str, str]:
    return {f"system/cpu/cpu{cpu}/{name}": str(value) for cpu, value in enumerate(values)}


@pytest.mark.parametrize("sign", ["cpu_capacity", "cpufreq/cpuinfo_max_freq"])
def test_capacity_and_clock_tell_big_cores_from_little_ones(machine: Machine, sign: str) -> None:
    root = machine([(0,), (1,), (2,), (3,)], **each(sign, 1024, 1020, 400, 400))
    found = placed(root, 2)
    assert (arms(found), found.control) == ({2: {0, 1}}, {2, 3})
    assert "of the fastest kind" in found.why


def test_the_favoured_cores_of_one_kind_are_no_kind_of_their_own(machine: Machine) -> None:
    root = machine([(0,), (1,), (2,)], **each("cpufreq/cpuinfo_max_freq", 5_800_000, 5_500_000, 5_500_000))
    assert arms(placed(root, 2)) == {2: {1, 2}}


NODES = ["0-3,8-11", "4-7,12-15"]
SOCKETS = [(cpu, cpu + 8) for cpu in range(8)]


def test_all_threads_of_an_arm_are_on_one_node(machine: Machine) -> None:
    root = machine(SOCKETS, nodes=NODES)
    assert arms(placed(root, 1, 4)) == {1: {15}, 4: {12, 13, 14, 15}}
    calm = placed(root, 1, 4, cpu5=0.5)  # the whole other node is calm
    assert arms(calm) == {1: {11}, 4: {8, 9, 10, 11}}
    assert "on one node" in calm.why


def test_an_arm_goes_over_two_nodes_before_two_of_its_threads_share_a_core(machine: Machine) -> None:
    found = placed(machine(SOCKETS, nodes=NODES), 2, 6)
    assert arms(found) == {2: {14, 15}, 6: {12, 13, 14, 15, 10, 11}}
    assert (found.control, found.idle) == ({0, 1, 8, 9}, {2, 3, 4, 5, 6, 7})
    assert "on several nodes" in found.why


# ---------------------------------------------------------------- what may be used, and what is set aside


def test_a_machine_that_shows_no_topology_says_so_and_every_cpu_counts_as_a_core(tmp_path: Path) -> None:
    found = placed(tmp_path, 2, usable={0, 1, 2, 3})
    assert (arms(found), found.control, found.topology) == ({2: {2, 3}}, {0, 1}, "unknown")
    assert "the kernel shows no topology" in found.why


def test_only_the_affinity_is_used_and_a_sibling_outside_of_it_counts_as_one(machine: Machine) -> None:
    root = machine(HALVES)
    found = placed(root, 1, usable={1, 2, 6})
    assert (arms(found), found.control, found.idle) == ({1: {6}}, {1}, {2})
    assert arms(placed(root, 1, usable={1, 2}, cpu6=0.9)) == {1: {1}}, "what runs on the sibling disturbs"


def test_an_offline_cpu_is_nobodys(machine: Machine) -> None:
    found = placed(machine([(0,), (1,), (2,), (3,)], online="0-2"), 1)
    assert (arms(found), found.control) == ({1: {2}}, {0, 1})


def test_an_isolated_cpu_is_an_arms_and_never_the_harnesss(machine: Machine) -> None:
    found = placed(machine([(0,), (1,), (2,), (3,)], isolated="1-2"), 1)
    assert (arms(found), found.control, found.idle) == ({1: {2}}, {0, 3}, {1})
    assert "isolated" in found.why


def test_several_threads_keep_off_isolated_cpus_where_nobody_would_spread_them(machine: Machine) -> None:
    found = placed(machine([(cpu,) for cpu in range(6)], isolated="4-5"), 1, 2)
    assert (arms(found), found.control, found.idle) == ({1: {3}, 2: {2, 3}}, {0, 1}, {4, 5})


def test_isolated_cpus_that_are_all_there_is_are_shared_out(machine: Machine) -> None:
    found = placed(machine([(cpu,) for cpu in range(4)], isolated="2-3"), 1, usable={2, 3})
    assert (arms(found), found.control) == ({1: {3}}, {2})


@pytest.mark.parametrize("threads", [[0], [3], [1, 3]])
def test_more_threads_than_cpus_are_refused_in_one_sentence_before_anybody_looks(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, threads: list[int]
) -> None:
    def never(seconds: float) -> None:
        raise AssertionError(seconds)

    monkeypatch.setattr(time, "sleep", never)
    with pytest.raises(InputError, match=rf"^threads: {max(threads)} is not to be had here; choose from 1 to 2, the"):
        choose(threads, root=machine([(0,), (1,)]), usable={0, 1})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 7})
    with pytest.raises(InputError, match="choose from 1 to 2, the usable CPUs"):
        cpus.refuse_too_many(threads)


# ---------------------------------------------------------------- who is calm


def test_of_equal_cores_the_calmest_is_taken_and_its_calmer_thread(machine: Machine) -> None:
    root = machine(HALVES)
    assert arms(placed(root, 1, cpu3=0.8)) == {1: {6}}
    busy = {f"cpu{cpu}": 0.5 for cpu in range(8)}
    assert arms(placed(root, 1, **busy | {"cpu1": 0.1})) == {1: {1}}
    assert arms(placed(root, 2, **busy | {"cpu1": 0.1, "cpu0": 0.2})) == {2: {0, 1}}


def test_what_an_idle_machine_does_moves_nobody(machine: Machine) -> None:
    quiet = dict.fromkeys(["cpu2", "cpu3"], 0.02)
    assert arms(placed(machine([(0,), (1,), (2,), (3,)]), 1, 2, **quiet)) == {1: {3}, 2: {2, 3}}
    assert arms(placed(machine([(0,), (1,), (2,), (3,)]), 1, 2, **quiet | {"cpu3": 0.06})) == {1: {2}, 2: {1, 2}}


def test_busy_and_stolen_time_count_and_waiting_for_a_disk_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = tmp_path / "proc/stat"
    stat.parent.mkdir()
    stat.write_text("cpu  9 9\n" + "".join(f"cpu{cpu} 5 0 0 5 0 0 0 0 0 0\n" for cpu in range(4)))
    later = ["25 0 0 85 0 0 0 0", "5 0 0 75 0 0 0 30", "5 0 0 5 100 0 0 0", "5 0 0 105 0 0 0 0"]

    def meanwhile(seconds: float) -> None:
        assert seconds == 0.5
        stat.write_text("".join(f"cpu{cpu} {words} 0 0\n" for cpu, words in enumerate(later)))

    monkeypatch.setattr(time, "sleep", meanwhile)
    found = cpus.busy_shares(0.5, root=tmp_path)
    assert found == pytest.approx({0: 0.2, 1: 0.3, 2: 0.0, 3: 0.0})


@pytest.fixture
def loop_on_the_last_cpu() -> Any:
    last = max(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{last}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as process:
        time.sleep(0.3)
        yield last
        process.kill()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU: there is no other")
def test_arms_keep_off_a_cpu_where_a_process_is_pinned(loop_on_the_last_cpu: int) -> None:
    calm: list[bool] = []
    for _ in range(5):
        (found,) = choose([1]).arms[1]
        if found != loop_on_the_last_cpu:
            return
        calm.append(min(cpus.busy_shares(0.5).values()) <= 0.5)
    if not all(calm):
        pytest.skip("neighbours keep every CPU busy: there is no calm one")
    pytest.fail(f"CPU {found} was chosen beside a loop, five times")


def test_without_looking_nobody_sleeps_and_the_last_are_taken(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("slept"))
    found = choose([1, 2], look_s=0, root=machine([(0,), (1,), (2,)]), usable={0, 1, 2})
    assert (arms(found), found.control) == ({1: {2}, 2: {1, 2}}, {0})
    assert found.to_json() == {
        "arms": {"1": [2], "2": [1, 2]},
        "control": [0],
        "idle": [],
        "topology": "known",
        "why": "a core for each thread of an arm; of equal ones the last; the harness on other cores",
    }


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(("numbers", "text"), [({3}, "CPU 3"), ({0, 1, 2, 8}, "CPUs 0-2,8"), ({1, 3}, "CPUs 1,3")])
def test_cpus_are_named_as_taskset_takes_them(numbers: set[int], text: str) -> None:
    assert named(numbers) == text
    assert cpu_numbers(listed(numbers)) == numbers
