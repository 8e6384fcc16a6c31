"""`compare: launcher` as a user asks for it: the same stub as a process and in a container, in lockstep."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bench.engine.client import engine
from bench.store import read

MATRIX = """\
name: cost
compare: launcher
baseline: local
axes:
  workload: [{name: stub, bytes: 262144}]
  framework: [stub]
  launcher: [local, docker]
budget: {blocks: 6, per_comparison: 1h, total: 1h}
"""
BENCH = (sys.executable, "-m", "bench")
STARTUP = ("start_s", "import_s", "data_s", "build_s", "first_step_s")


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*BENCH, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run's folder, and what was printed."""
    out = tmp_path_factory.mktemp("launchers")
    (out / "m.yaml").write_text(MATRIX)
    done = bench("run", "--matrix", out / "m.yaml", "--out", out / "runs")
    assert done.returncode == 0, done.stderr
    (folder,) = (out / "runs").iterdir()
    return folder, done.stdout


def document(folder: Path) -> dict[str, Any]:
    done = bench("report", folder, "--format", "json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.docker
def test_a_process_and_a_container_take_turns_in_every_block(run: tuple[Path, str]) -> None:
    stored = read(run[0])
    assert stored.run["launcher"] == "docker and local"
    assert set(stored.run["images"]) == {"stub (local)", "stub (docker)"}
    valid = [record for record in stored.blocks if not record["spoiled"]]
    assert len(valid) == 6
    for record in valid:
        images = {arm: outcome["image"] for arm, outcome in record["arms"].items()}
        assert len(images) == 2
        assert sum(image is None for image in images.values()) == 1, "one is a process, the other a container"


@pytest.mark.docker
def test_the_ratio_has_an_interval_and_starting_up_a_table(run: tuple[Path, str]) -> None:
    folder, printed = run
    found = document(folder)
    (one,) = found["contrasts"]
    assert one["ci"][0] < one["ratio"] < one["ci"][1]
    started = {cell["cell"]["launcher"]: cell["metrics"]["startup"] for cell in found["cells"]}
    assert {name for figures in started.values() for name in figures} == set(STARTUP)
    assert started["docker"]["start_s"]["ci"][0] > started["local"]["start_s"]["ci"][1], "a container starts later"
    assert "start-up" in printed
    page = bench("report", folder, "--format", "markdown").stdout
    assert "## Start-up" in page


@pytest.mark.docker
def test_a_stopped_run_of_both_goes_on_with_both(run: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MATRIX)
    first = bench("run", "--matrix", tmp_path / "m.yaml", "--out", tmp_path / "runs", "--budget", "2s")
    assert first.returncode == 0, first.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    begun = len(read(folder).blocks)
    assert 0 < begun < 6
    again = bench("run", "--resume", folder)
    assert again.returncode == 0, again.stderr
    stored = read(folder)
    assert sum(not record["spoiled"] for record in stored.blocks) >= begun
    assert stored.run["images"] == read(run[0]).run["images"]


def test_auto_cannot_stand_beside_another_launcher(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MATRIX.replace("[local, docker]", "[auto, local]"))
    done = bench("run", "--matrix", tmp_path / "m.yaml", "--out", tmp_path / "runs")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "launcher: [local, docker]" in done.stderr


def test_one_launcher_for_all_leaves_nothing_to_compare(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MATRIX)
    done = bench("run", "--matrix", tmp_path / "m.yaml", "--out", tmp_path / "runs", "--launcher", "local")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


PLACES = """\
name: places
compare: launcher
baseline: docker-volume
axes:
  workload: [{name: mnist_cnn, evaluate_steps: 5}]
  framework: [pytorch]
  launcher: [docker-volume, docker-image]
budget: {blocks: 1}
"""


@pytest.mark.docker
@pytest.mark.framework
def test_data_in_a_volume_or_in_the_image_is_the_same_data_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(PLACES)
    done = bench("run", "--matrix", tmp_path / "m.yaml", "--out", tmp_path / "runs")
    (folder,) = (tmp_path / "runs").iterdir()
    stored = read(folder)
    arms = stored.blocks[0]["arms"]
    assert {arm: outcome["status"] for arm, outcome in arms.items()} == dict.fromkeys(arms, "measured"), done.stderr
    assert len({outcome["inputs_sha256"] for outcome in arms.values()}) == 1
    assert all(outcome["data_s"] > 0 for outcome in arms.values())
    recorded = {key: image["image"] for key, image in stored.run["images"].items()}
    assert len(set(recorded.values())) == 1, "the data is no part of what is recorded as the image"
    assert len({outcome["image"] for outcome in arms.values()}) == 2, "one arm ran in an image with the data"
    with closing(engine()) as client:
        run = stored.run["id"]
        assert client.volumes.list(filters={"label": f"bench.run={run}"}) == []
        assert client.images.list(filters={"label": f"bench.run={run}"}) == []
        assert client.containers.list(all=True, filters={"label": f"bench.run={run}"}) == []
    assert all(one["parity"]["status"] == "passed" for one in document(folder)["contrasts"])
