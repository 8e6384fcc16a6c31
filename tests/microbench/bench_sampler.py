"""One tick of the sampler: what telemetry takes from the core beside the measurement."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.container_engine import engine
from bench.telemetry.sampler import Recorder

if TYPE_CHECKING:
    from figures import Each

    from bench.launch.local import LocalChannel

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
            recorder.tick()

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
