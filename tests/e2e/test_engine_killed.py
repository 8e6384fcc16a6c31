"""An engine that dies under a run: killed, stopped, or killed where its containers outlive it; then started again."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from second_engine import SecondEngine

from bench.engine.client import engine
from bench.provision import base as base_image
from bench.store import read

pytestmark = [pytest.mark.docker, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]
BLOCKS = 2
MATRIX = f"""\
axes: {{workload: [{{name: stub, bytes: 131072}}], framework: [stub, {{name: stub, work: 1.5}}]}}
budget: {{blocks: {BLOCKS}, per_comparison: 1h, total: 1h}}
"""
NOTICED_S = 15  # an engine that is stopped lets its containers end first, for ten seconds at most
LIMIT_S = 120


@pytest.fixture(scope="module")
def second() -> Iterator[tuple[SecondEngine, dict[str, str]]]:
    """An engine with the user's base, and the environment in which bench uses it."""
    with closing(engine()) as client:
        base = base_image.choose(client, base=None, progress=print)
    with SecondEngine() as second:
        second.take(base.id, base.tag)
        cache = second.folder / "cache"
        cache.mkdir()
        ready = {"id": base.id, "python": base.python}
        (cache / "base.json").write_text(json.dumps({"ready": {base.id: ready}}))
        yield second, {**os.environ, "DOCKER_HOST": second.address, "BENCH_CACHE": str(cache), "BASE": base.tag}
    gc.collect()  # docker-py leaves the sockets of streamed answers


def containers(second: SecondEngine) -> list[str]:
    with closing(second.client()) as client:
        return [one["Id"] for one in client.api.containers(all=True)]


def until(happened: Any, what: str, limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < deadline, f"never saw {what}"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "how",
    ["killed", *(pytest.param(how, marks=pytest.mark.nightly) for how in ("stopped", "killed with live-restore"))],
)
def test_a_run_whose_engine_died_is_completed_by_resume_with_nothing_twice_and_nothing_left(
    second: tuple[SecondEngine, dict[str, str]], tmp_path: Path, how: str
) -> None:
    theirs, env = second
    theirs.terminate()
    theirs._options = ["--live-restore"] if "live-restore" in how else []
    theirs.start()
    (tmp_path / "m.yaml").write_text(MATRIX)
    command = [sys.executable, "-m", "bench", "run"]
    given = [
        "--matrix",
        f"{tmp_path}/m.yaml",
        "--out",
        f"{tmp_path}/runs",
        "--launcher",
        "docker",
        "--base",
        env["BASE"],
    ]
    with subprocess.Popen([*command, *given], env=env, stderr=subprocess.PIPE, text=True) as harness:

        def kept() -> list[str]:
            assert harness.poll() is None, harness.stderr and harness.stderr.read()
            return [line for file in tmp_path.glob("runs/*/blocks.jsonl") for line in file.read_text().splitlines()]

        until(kept, "a finished block")
        until(lambda: len(containers(theirs)) == 2, "both workers of the next")
        before = kept()
        died = time.monotonic()
        if how == "stopped":
            theirs.terminate()
        else:
            theirs.kill()
        _, said = harness.communicate(timeout=NOTICED_S)
        noticed_s = time.monotonic() - died
    print(f"{how}: noticed after {noticed_s:.1f} s; {said.splitlines()[-1]}")
    (folder,) = (tmp_path / "runs").iterdir()
    assert harness.returncode == 3
    assert "Traceback" not in said
    assert f"bench run --resume {folder}" in said.splitlines()[-2]
    assert "the Docker engine went away: it " in said.splitlines()[-1]
    stored = read(folder)
    assert [json.dumps(one) for one in stored.blocks[: len(before)]] == [json.dumps(json.loads(one)) for one in before]
    assert not [arm for one in stored.blocks for arm in one["arms"].values() if arm["status"] != "measured"]

    began = time.monotonic()
    try:
        theirs.start()
    except RuntimeError:  # its containerd takes its time over shims that were cut off; systemd tries again too
        theirs.start()
    print(f"it answers after {time.monotonic() - began:.1f} s and finds {len(containers(theirs))} containers")
    resumed = subprocess.run([*command, "--resume", folder], env=env, capture_output=True, text=True, check=False)
    assert "Traceback" not in resumed.stderr
    assert containers(theirs) == []
    after = read(folder)
    assert after.run["finished_at"], resumed.stderr
    assert after.blocks[: len(stored.blocks)] == stored.blocks
    keys = [(one["comparison"], one["block"]) for one in after.blocks if not one["spoiled"]]
    assert len(keys) == len(set(keys))
    busy = "attempts did not give enough valid blocks" in resumed.stderr  # others use this machine
    assert busy or len(keys) == BLOCKS, resumed.stderr
    assert resumed.returncode == 0 or "was spoiled" in resumed.stderr, resumed.stderr
