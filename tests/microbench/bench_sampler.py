"""One tick of the sampler: what telemetry takes from the core beside the measurement."""

from __future__ import annotations

import io
import re
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nvml_stub
import pytest
from absent import absent
from conftest import FIGURES
from figures import Figure

from bench.engine.client import engine
from bench.telemetry import Sampler
from bench.telemetry.process_tree import cpu_clock
from bench.telemetry.sampler import Recorder

if TYPE_CHECKING:
    from figures import Each

    from bench.launch.local import LocalChannel

OfASecond = Callable[..., None]

ARMS = 4
TICKS = 100
GOOD_S = 1e-3
IMAGE = "bench-microbench-sampler"


def ticking(each: Each, folder: Path, *, pid: int, scope: str) -> None:
    recorder = Recorder(str(folder), 10)
    for arm in range(ARMS):
        recorder.watch(f"arm {arm}", pid, scope)

    def tick() -> None:
        for _ in range(TICKS):
            recorder.tick(time.monotonic_ns())

    each(tick, what=f"a tick over {ARMS} arms, scope {scope}", count=TICKS, good_s=GOOD_S)
    assert not recorder.idle, "an arm that cannot be read is forgotten"
    rows = Path(recorder.flush("block")["file"]).read_text().splitlines()
    recorder.close()
    assert len(rows) >= 1 + ARMS * TICKS


def test_a_tick_over_processes(each: Each, worker: LocalChannel, tmp_path: Path) -> None:
    """Every arm's processes read from /proc, and every GPU that there is.

    Good: up to 1 ms; at 10 readings a second it is 1 % of a core, which the arms do not share where there are two.
    """
    ticking(each, tmp_path, pid=worker.pid, scope="process")


@pytest.mark.docker
def test_a_tick_over_containers(each: Each, container: int, tmp_path: Path) -> None:
    """Every arm's control group read, and every GPU that there is. Good: up to 1 ms, as for processes."""
    ticking(each, tmp_path, pid=container, scope="cgroup")


# An empty loop in Python, woken so often by select: what no sampler of ours can be under.
EMPTY = """
import select, sys, time
hz, seconds = map(float, sys.argv[1:])
due = time.monotonic()
for turn in range(round(hz * seconds) + 5):
    if turn == 5:
        began, used = time.monotonic(), time.process_time()
    due += 1 / hz
    select.select([0], [], [], max(0, due - time.monotonic()))
print((time.process_time() - used) / (time.monotonic() - began))
"""


@pytest.mark.parametrize("hz", [10, 100])
def test_a_second_of_an_empty_loop(of_a_second: OfASecond, quick: bool, hz: float) -> None:
    """What being woken costs Python on this machine: the floor of the figures below.

    Good: 2 ms and 15 ms, which the sampler itself should not pass.
    """

    def take() -> float:
        command = [sys.executable, "-c", EMPTY, str(hz), "0.2" if quick else "3"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            return float(process.stdout.readline())

    of_a_second(take, what=f"an empty loop at {hz:g} Hz, a second", good_s={10: 2e-3, 100: 15e-3}[hz])


@pytest.mark.docker
@pytest.mark.parametrize(("hz", "good_s"), [(10, 2e-3), (100, 15e-3)])
def test_a_second_of_the_whole_process_over_containers(
    of_a_second: OfASecond, container: int, tmp_path: Path, quick: bool, hz: float, good_s: float
) -> None:
    """CPU time of the sampler's process in a second, two arms read from their control groups.

    Good: 2 ms at 10 readings a second (0.2 % of a core) and 15 ms at 100 (1.5 %).
    """
    with Sampler(tmp_path, hz) as sampler:
        for arm in ("baseline", "arm"):
            sampler.watch(arm, container, "cgroup")
        _used_in_a_second(sampler, 0.2)  # its first readings open files
        seconds = 0.2 if quick else 3.0
        of_a_second(
            lambda: _used_in_a_second(sampler, seconds), what=f"the sampler at {hz:g} Hz, a second", good_s=good_s
        )
        assert sampler.fault is None


@pytest.mark.docker
def test_a_second_of_the_whole_process_with_a_replayed_gpu(
    of_a_second: OfASecond, container: int, tmp_path: Path, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same at 10 readings a second, beside a GPU that a stub of NVML's library replays: of the binding's own cost.

    Good: 10 ms (1 % of a core); what a real driver takes comes on top, and is in each block's `gpu_read_s`.
    """
    if reason := nvml_stub.absence():
        absent(reason)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(nvml_stub.build(tmp_path / "stub").parent))
    with Sampler(tmp_path) as sampler:
        assert sampler.source == "replay"
        sampler.watch("arm", container, "cgroup")
        _used_in_a_second(sampler, 0.2)
        seconds = 0.2 if quick else 3.0
        of_a_second(
            lambda: _used_in_a_second(sampler, seconds), what="the same with a replayed GPU, 10 Hz", good_s=1e-2
        )


@pytest.fixture
def of_a_second(benchmark: Any, request: pytest.FixtureRequest) -> OfASecond:
    """Let `take` run some seconds and give its CPU time of one; the figure is of that, and not of the clock."""

    def measure(take: Callable[[], float], *, what: str, good_s: float) -> None:
        used: list[float] = []
        benchmark.pedantic(lambda: used.append(take()), rounds=5)
        if benchmark.enabled:
            figure = Figure(what=what, median_s=statistics.median(used), least_s=min(used), good_s=good_s)
            request.config.stash.setdefault(FIGURES, []).append(figure)

    return measure


def _used_in_a_second(sampler: Sampler, seconds: float) -> float:
    assert sampler.pid is not None
    clock = cpu_clock(sampler.pid)
    began_ns, used_ns = time.monotonic_ns(), time.clock_gettime_ns(clock)
    time.sleep(seconds)
    used_s = (time.clock_gettime_ns(clock) - used_ns) / 1e9
    return used_s / ((time.monotonic_ns() - began_ns) / 1e9)


@pytest.fixture
def container() -> Iterator[int]:
    """The process id of a container of nothing but this machine's shell and the libraries it needs."""
    with ExitStack() as stack:
        client = engine()
        stack.callback(client.close)
        image = _image(client)
        stack.callback(client.images.remove, image.id, force=True)
        running = client.containers.create(
            image.id, ["/bin/sh", "-c", "read forever"], stdin_open=True, network_mode="none", mem_limit="64m"
        )
        stack.callback(running.remove, force=True)
        running.start()
        running.reload()
        yield int(running.attrs["State"]["Pid"])


def _image(client: Any) -> Any:
    shell = Path("/bin/sh")
    linked = subprocess.run(["ldd", shell], capture_output=True, text=True, check=True).stdout
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", dereference=True) as tar:
        for file in [str(shell), *re.findall(r"(/\S+) \(0x", linked)]:
            tar.add(file)
    client.api.import_image_from_data(archive.getvalue(), repository=IMAGE, tag="latest")
    return client.images.get(f"{IMAGE}:latest")
