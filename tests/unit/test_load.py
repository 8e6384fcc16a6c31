"""The load that validation puts beside itself: what it takes, and that nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.validate.load import bursts, pinned

pytestmark = pytest.mark.second

TICKS = os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 3.0


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def shares(pids: Sequence[int]) -> list[float]:
    """Of one CPU, that each takes: less than it would where others want the CPU too."""
    before, began = [cpu_s(pid) for pid in pids], time.monotonic()
    time.sleep(SECONDS)
    seconds = time.monotonic() - began
    return [(cpu_s(pid) - taken) / seconds for pid, taken in zip(pids, before, strict=True)]


def sleeps(pid: int) -> int:
    """How often it has given its CPU away by itself."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches:"))


def is_gone(pid: int, within_s: float = 5.0) -> bool:
    """Ended; a process that nobody has waited for yet is as good as gone."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_bursts_take_their_share_of_every_cpu_and_no_more(share: float) -> None:
    with bursts(share) as pids:
        assert [os.sched_getaffinity(pid) for pid in pids] == [{cpu} for cpu in sorted(os.sched_getaffinity(0))]
        taken, slept = shares(pids), [sleeps(pid) for pid in pids]
    assert all(0.4 * share <= one <= 1.3 * share for one in taken), taken
    assert all(times >= SECONDS for times in slept), "bursts, not one long one"
    assert all(is_gone(pid) for pid in pids)


def test_a_pinned_process_never_leaves_its_cpu_alone() -> None:
    cpu = max(os.sched_getaffinity(0))
    with pinned(cpu) as pid:
        assert os.sched_getaffinity(pid) == {cpu}
        before = sleeps(pid)
        (taken,) = shares([pid])
        assert sleeps(pid) - before <= 2
        assert 0.1 <= taken <= 1.05  # half, where one other wants it
    assert is_gone(pid)


def test_nothing_stays_after_an_exception() -> None:
    found: list[int] = []

    def spoil() -> None:
        with bursts() as pids, pinned(min(os.sched_getaffinity(0))) as pid:
            found.extend((*pids, pid))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        spoil()
    assert len(found) == len(os.sched_getaffinity(0)) + 1
    assert all(is_gone(pid) for pid in found)


def test_nothing_stays_after_a_kill_of_the_harness() -> None:
    code = (
        "import os, time\n"
        "from bench.validate.load import bursts, pinned\n"
        "with bursts() as pids, pinned(max(os.sched_getaffinity(0))) as pid:\n"
        "    print(*pids, pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    harness = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert harness.stdout
    pids = [int(pid) for pid in harness.stdout.readline().split()]
    assert len(pids) == len(os.sched_getaffinity(0)) + 1
    assert not any(is_gone(pid, within_s=0.1) for pid in pids)
    harness.send_signal(signal.SIGKILL)
    harness.communicate()
    assert all(is_gone(pid) for pid in pids)


def test_a_cpu_that_is_not_there_is_said_in_a_sentence() -> None:
    with pytest.raises(BenchError, match=r"no load on CPU 9999: OSError: .*; see bench check"), pinned(9999):
        pass
