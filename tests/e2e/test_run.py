"""`bench run` as a user starts it: real frameworks, in processes and in containers; to its end, killed and broken."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench import frameworks
from bench.engine.client import engine
from bench.store import STEP_COLUMNS, read, stem
from workloads.contract import AXES

docker = pytest.mark.docker
# docker-py leaves the socket of a streamed answer to the garbage collector.
pytestmark = [
    pytest.mark.framework,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.first,
]
BOTH = [pytest.param("local", id="local"), pytest.param("docker", marks=docker, id="docker")]
LOCAL_FIRST = [BOTH[0], pytest.param("docker", marks=[docker, pytest.mark.second], id="docker")]
COMPARISON = "linear_regression-train-eager-b5"
LIMIT_S = 300
GONE_S = 10  # after a kill -9

Matrices = Callable[..., Path]
Copy = Callable[[], Path]


@dataclass
class Harness:
    """A `bench` process, and what it said."""

    process: subprocess.Popen[str]
    out: Path
    said: list[str] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)
    code: int | None = None

    def __post_init__(self) -> None:
        pairs = ((self.process.stderr, self.said), (self.process.stdout, self.printed))
        self._readers = [threading.Thread(target=lines.extend, args=(pipe,)) for pipe, lines in pairs]
        for reader in self._readers:
            reader.start()

    @property
    def stderr(self) -> str:
        return "".join(self.said)

    @property
    def stdout(self) -> str:
        return "".join(self.printed)

    @property
    def folder(self) -> Path:
        """The one run folder that it made."""
        (folder,) = self.out.iterdir()
        return folder

    def blocks(self) -> list[str]:
        """The lines of blocks.jsonl as they are now."""
        return [line for file in self.out.glob("*/blocks.jsonl") for line in file.read_text().splitlines()]

    def wait(self) -> Harness:
        self.code = self.process.wait(LIMIT_S)
        self.close()
        assert "Traceback" not in self.stderr, self.stderr
        return self

    def kill(self) -> None:
        """As `kill -9`: it cannot clean up."""
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        for reader in self._readers:
            reader.join()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe
            pipe.close()

    def until(self, happened: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not happened():
            assert self.process.poll() is None, f"it ended before {what}:\n{self.stderr}"
            assert time.monotonic() < deadline, f"never saw {what}:\n{self.stderr}"
            time.sleep(0.05)

    def until_the_second_block_runs(self) -> None:
        """One block is on disk, and both workers of the next have been started."""
        self.until(lambda: "block 2 (" in self.stderr and len(self.blocks()) == 1, "a second block")
        self.until(lambda: len(workers(self.process.pid)) + len(containers(self, made=False)) == 2, "its workers")


Start = Callable[..., Harness]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, calm_tree: Copy) -> Iterator[Start]:
    """Start `bench` in a session of its own, on no machine too busy for it; whatever is left running is killed."""
    started: list[Harness] = []
    usual = calm_tree()

    def start(*arguments: str | Path, out: Path | None = None, tree: Path | None = None, **variables: str) -> Harness:
        out = out or tmp_path_factory.mktemp("out")
        env = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(tree or usual), **variables}
        hearing = ["env", "--default-signal=INT"]  # a background shell ignores interrupts, and so would its children
        process = subprocess.Popen(
            [*hearing, sys.executable, "-m", "bench", *arguments, "--out", out],
            env=env, cwd=out, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
            start_new_session=True,
        )  # fmt: skip
        started.append(Harness(process, out))
        return started[-1]

    yield start
    for harness in started:
        harness.kill()


@pytest.fixture(scope="module")
def local_run(bench: Start, matrix_file: Matrices) -> Harness:
    """One whole run in processes."""
    return bench("run", "--matrix", matrix_file(), "--launcher", "local").wait()


@pytest.fixture(scope="module")
def images() -> None:
    """Built by the checkout itself, whose commit they name: copies of the program have none."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "images", "build"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def docker_run(bench: Start, matrix_file: Matrices, images: None) -> Harness:
    """One whole run in containers."""
    return bench("run", "--matrix", matrix_file(), "--launcher", "docker").wait()


@pytest.fixture(params=BOTH)
def whole_run(request: pytest.FixtureRequest) -> Harness:
    """Either of them."""
    return request.getfixturevalue(f"{request.param}_run")  # type: ignore[no-any-return]


def report(folder: Path, *arguments: str) -> Any:
    """The report in JSON, as `bench report` prints it to stdout alone."""
    command = [sys.executable, "-m", "bench", "report", folder, "--format", "json", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, in whatever session."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def workers(pid: int) -> list[int]:
    """The worker processes below `pid`."""

    def is_worker(one: int) -> bool:
        with contextlib.suppress(OSError):
            return b"workloads.worker" in Path(f"/proc/{one}/cmdline").read_bytes()
        return False

    return [one for one in descendants(pid) if is_worker(one)]


def alive(pids: list[int]) -> list[int]:
    """Those that still run; a zombie does not."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
    return found


def containers(harness: Harness, *, made: bool = True) -> list[str]:
    """Ids of the run's containers by their label, also those that ended or, being made, have not started yet."""
    if "docker" not in harness.process.args:  # type: ignore[operator]
        return []
    with contextlib.closing(engine()) as client:
        found = client.api.containers(all=made, filters={"label": f"bench.run={harness.folder.name}"})
    return [container["Id"] for container in found]


# A whole run


def test_a_run_ends_well_with_its_table_on_stdout(whole_run: Harness) -> None:
    assert whole_run.code == 0, whole_run.stderr
    for words in ("linear_regression classic", "TF", "PyTorch", "passed"):
        assert words in whole_run.stdout
    assert "again: bench report" in whole_run.stderr


def test_the_run_folder_is_complete(whole_run: Harness) -> None:
    stored = read(whole_run.folder)
    assert stored.run["finished_at"]
    assert [(record["comparison"], record["block"]) for record in stored.blocks] == [(COMPARISON, 0), (COMPARISON, 1)]
    (certificate,) = stored.certificates
    assert (certificate["status"], certificate["arm"]) == ("passed", "pytorch")
    assert set(certificate["evaluations"]) == set(frameworks.defaults())
    for record in stored.blocks:
        steps = stored.steps(record)
        assert list(steps.columns) == list(STEP_COLUMNS)
        assert set(steps["arm"]) == set(frameworks.defaults())
        assert steps.groupby("arm")["round"].nunique().tolist() == [record["rounds"]] * 2
        assert (steps["time_ns"] > 0).all()
        telemetry = stored.telemetry(record)
        assert telemetry is not None, stem(record)
    left = {path.relative_to(whole_run.folder).parts[0] for path in whole_run.folder.rglob("*") if path.is_file()}
    assert left <= {"run.json", "blocks.jsonl", "parity.jsonl", "steps", "telemetry", ".lock"}


def test_every_trial_records_what_was_really_in_force(whole_run: Harness) -> None:
    outcomes = [outcome for record in read(whole_run.folder).blocks for outcome in record["arms"].values()]
    assert len(outcomes) == 4
    for outcome in outcomes:
        assert outcome["status"] == "measured"
        assert outcome["effective"]["intra_op_threads"] == 1
        assert len(outcome["effective"]["cpus"]) == 1
        assert outcome["peak_memory_bytes"] > 2**20
        assert min(outcome[name] for name in ("import_s", "build_s", "first_step_s")) > 0
    assert len({tuple(outcome["effective"]["cpus"]) for outcome in outcomes}) == 1, "one cpuset for all arms"
    assert len({outcome["inputs_sha256"] for outcome in outcomes}) == 1, "the same bytes for both"


def test_the_report_in_json_has_every_key_of_the_design(whole_run: Harness) -> None:
    document = report(whole_run.folder)
    assert document["schema"] == "bench.report/1"
    assert {"run", "environment", "telemetry", "cells", "contrasts"} <= set(document)
    assert {"id", "started_at", "launcher", "commit", "seed", "schedule"} <= set(document["run"])
    assert set(document["telemetry"]) == {"source", "hz", "refresh_s"}
    assert len(document["cells"]) == 2
    for cell in document["cells"]:
        assert {"id", "comparison", "cell", "versions", "image", "blocks", "failed", "metrics", "nulls"} <= set(cell)
        assert set(AXES) <= set(cell["cell"])
        metrics = cell["metrics"]
        assert {"step_ms", "cpu_ms", "items_per_s", "import_s", "build_s", "first_step_s", "peak_memory_bytes",
                "cpu_percent", "gpu_util_percent", "joules_per_item"} <= set(metrics)  # fmt: skip
        assert {"median", "ci", "p90", "p99"} <= set(metrics["step_ms"])
        assert metrics["step_ms"]["median"] > 0
        assert metrics["step_ms"]["ci"] is None, "two blocks give no exact interval"
        assert 0 < metrics["cpu_percent"] < 200
        assert {"gpu_util_percent", "joules_per_item", "step_ms.ci"} <= set(cell["nulls"])
    (contrast,) = document["contrasts"]
    assert {"id", "comparison", "baseline", "arm", "metric", "ratio", "ci", "half_width", "p", "p_holm", "blocks",
            "blocks_repeated", "verdict", "reason", "parity", "confounders"} <= set(contrast)  # fmt: skip
    assert {"status", "max_rel_error"} <= set(contrast["parity"])
    assert contrast["metric"] == "throughput"
    assert contrast["ratio"] > 0
    assert contrast["parity"]["status"] == "passed"
    assert {contrast["baseline"], contrast["arm"]} == {cell["id"] for cell in document["cells"]}


def test_a_run_is_found_by_its_id_inside_out(local_run: Harness) -> None:
    assert report(Path(local_run.folder.name), "--out", str(local_run.out)) == report(local_run.folder)


@docker
def test_every_container_trial_has_an_image_of_two_on_one_base(docker_run: Harness) -> None:
    stored = read(docker_run.folder)
    images = {outcome["image"] for record in stored.blocks for outcome in record["arms"].values()}
    assert len(images) == 2
    assert all(image.startswith("sha256:") for image in images)
    assert len({image["base"] for image in stored.run["images"].values()}) == 1
    assert {cell["image"] for cell in report(docker_run.folder)["cells"]} == images


def test_no_local_trial_has_an_image(local_run: Harness) -> None:
    assert {cell["image"] for cell in report(local_run.folder)["cells"]} == {None}


@docker
def test_no_container_is_left_after_a_run(docker_run: Harness) -> None:
    assert containers(docker_run) == []


@docker
def test_parity_errors_are_the_same_in_containers_and_in_processes_to_within_rounding(
    local_run: Harness, docker_run: Harness
) -> None:
    (local,), (contained,) = (read(run.folder).certificates for run in (local_run, docker_run))
    pairs = list(zip(local["checks"], contained["checks"], strict=True))
    assert len(pairs) > 10
    for one, other in pairs:
        assert [one[key] for key in ("name", "arm", "passed")] == [other[key] for key in ("name", "arm", "passed")]
        rounding = 1e-14 if one["name"].startswith("float64") else 1e-6
        assert math.isclose(one["value"], other["value"], rel_tol=0, abs_tol=rounding), one["name"]


# Stopped


@dataclass
class Interrupted:
    """A run that a Ctrl-C stopped in its second block, and the processes that were below it."""

    harness: Harness
    below: list[int]


@pytest.fixture(scope="module", params=LOCAL_FIRST)
def interrupted(request: pytest.FixtureRequest, bench: Start, matrix_file: Matrices) -> Interrupted:
    if request.param == "docker":
        request.getfixturevalue("images")
    harness = bench("run", "--matrix", matrix_file(), "--launcher", request.param)
    harness.until_the_second_block_runs()
    below = descendants(harness.process.pid)
    os.killpg(harness.process.pid, signal.SIGINT)  # as a terminal does
    return Interrupted(harness.wait(), below)


def test_ctrl_c_keeps_finished_blocks_removes_workers_and_says_how_to_go_on(interrupted: Interrupted) -> None:
    harness = interrupted.harness
    assert harness.code == 130
    assert f"bench run --resume {harness.folder}" in harness.stderr
    assert [json.loads(line)["block"] for line in harness.blocks()] == [0]
    assert len(interrupted.below) >= 2
    assert alive(interrupted.below) == []
    assert containers(harness) == []


def test_a_killed_harness_leaves_nothing_running_and_resumes_without_loss_or_repetition(
    bench: Start, interrupted: Interrupted
) -> None:
    first = interrupted.harness
    kept = first.blocks()
    killed = bench("run", "--resume", first.folder, out=first.out)
    killed.until(lambda: len(workers(killed.process.pid)) + len(containers(first)) == 2, "the workers of block 2")
    below = descendants(killed.process.pid)
    assert below
    killed.kill()
    deadline = time.monotonic() + GONE_S
    while (left := (alive(below), containers(first))) != ([], []):
        assert time.monotonic() < deadline, f"left after {GONE_S} s: {left}"
        time.sleep(0.2)
    assert first.blocks() == kept

    with (first.folder / "blocks.jsonl").open("a") as journal:
        journal.write('{"schema": "bench.block/1", "compar')  # as a power cut may leave it
    resumed = bench("run", "--resume", first.folder, out=first.out).wait()
    assert resumed.code == 0, resumed.stderr
    assert "parity" not in resumed.stderr, "the certificate holds"
    assert first.blocks()[:1] == kept
    assert [json.loads(line)["block"] for line in first.blocks()] == [0, 1]
    assert [contrast["blocks"] for contrast in report(first.folder)["contrasts"]] == [2]
    assert containers(first) == []


@docker
@pytest.mark.second
def test_an_engine_that_goes_away_stops_the_run_with_everything_kept(
    bench: Start, matrix_file: Matrices, images: None, tmp_path: Path
) -> None:
    proxy = Proxy(tmp_path / "engine.sock")
    harness = bench("run", "--matrix", matrix_file(), "--launcher", "docker", DOCKER_HOST=f"unix://{proxy.path}")
    try:
        harness.until_the_second_block_runs()
    finally:
        proxy.vanish()
    harness.wait()
    assert harness.code == 3
    assert "the Docker engine went away" in harness.stderr
    assert f"bench run --resume {harness.folder}" in harness.stderr
    assert len(harness.blocks()) == 1
    deadline = time.monotonic() + GONE_S
    while left := containers(harness):
        assert time.monotonic() < deadline, f"left: {left}"
        time.sleep(0.2)


def test_a_run_whose_workloads_changed_is_not_resumed(
    bench: Start, local_run: Harness, calm_tree: Copy, edit: Any, borrowed_cache: Path
) -> None:
    tree = calm_tree()
    edit(tree / "workloads/linear_regression/spec.py", '"learning_rate": 0.05', '"learning_rate": 0.06')
    before = local_run.blocks()
    resumed = bench("run", "--resume", local_run.folder, tree=tree, BENCH_CACHE=str(borrowed_cache)).wait()
    assert resumed.code == 2
    assert "cannot be resumed, because the workloads' code changed" in resumed.stderr
    assert local_run.blocks() == before


def test_a_run_whose_harness_changed_is_not_resumed_and_one_whose_words_changed_is(
    bench: Start, local_run: Harness, calm_tree: Copy, edit: Any, borrowed_cache: Path
) -> None:
    tree = calm_tree()
    before = local_run.blocks()
    for prose in ("workloads/linear_regression/README.md", "bench/cli/options.py", "bench/report/table.py"):
        with (tree / prose).open("a") as file:
            file.write("\n")
    resumed = bench("run", "--resume", local_run.folder, tree=tree, BENCH_CACHE=str(borrowed_cache)).wait()
    assert "cannot be resumed" not in resumed.stderr, resumed.stderr
    edit(tree / "bench/measure/lockstep.py", "QUIET_S = 0.001", "QUIET_S = 0.002")
    resumed = bench("run", "--resume", local_run.folder, tree=tree, BENCH_CACHE=str(borrowed_cache)).wait()
    assert resumed.code == 2
    assert "cannot be resumed, because the harness's own code changed since it began" in resumed.stderr
    assert local_run.blocks() == before


# Broken


@pytest.fixture(scope="module")
def damaged_run(bench: Start, matrix_file: Matrices, calm_tree: Copy, edit: Any, borrowed_cache: Path) -> Harness:
    """Three comparisons: one is well; in one PyTorch's worker crashes in every block; in one its momentum is wrong."""
    tree = calm_tree()
    crash = """\
    import os, sys
    if os.environ["BENCH_PADDING"] and cell.workload.get("preset") == "classic":
        print("a last word", file=sys.stderr, flush=True)
        os._exit(3)
"""
    first = "    model = network(cell=cell, weights=weights)\n"
    edit(tree / "workloads/linear_regression/pytorch.py", first, crash + first)
    rule = "rule=spec.optimizer(cell.workload.mapping)"
    wrong = f"rule=__import__('dataclasses').replace({rule.partition('=')[2]}, momentum=0.89)"
    edit(tree / "workloads/mnist_cnn/pytorch.py", rule, wrong)
    well = "{name: linear_regression, n: 512, d: 8, evaluate_steps: 20}"
    crashing = "{name: linear_regression, preset: classic, evaluate_steps: 20}"
    matrix = matrix_file(well, crashing, "mnist_cnn", blocks=1, batch_size=8, name="damaged")
    return bench("run", "--matrix", matrix, "--launcher", "local", tree=tree, BENCH_CACHE=str(borrowed_cache)).wait()


def contrast_of(harness: Harness, workload: str) -> Any:
    (found,) = [one for one in report(harness.folder)["contrasts"] if one["comparison"].startswith(workload)]
    return found


@pytest.mark.second
def test_a_run_in_which_something_failed_goes_on_and_exits_3(damaged_run: Harness) -> None:
    assert damaged_run.code == 3
    well = contrast_of(damaged_run, "linear_regression-standard")
    assert well["blocks"] == 1
    assert well["verdict"] not in ("failed", "invalid")
    assert well["ratio"] > 0


@pytest.mark.second
def test_one_changed_constant_in_one_framework_makes_the_comparison_invalid_without_a_ratio(
    damaged_run: Harness,
) -> None:
    mutated = contrast_of(damaged_run, "mnist_cnn")
    assert mutated["verdict"] == "invalid"
    assert mutated["ratio"] is None
    assert mutated["ci"] is None
    assert mutated["blocks"] == 0, "no time is spent on it"
    assert mutated["parity"]["status"] == "failed"
    assert "pytorch: float64" in mutated["reason"]
    assert "—" in next(line for line in damaged_run.stdout.splitlines() if "mnist_cnn" in line)


@pytest.mark.second
def test_a_crash_in_a_block_is_recorded_with_the_log_s_tail(damaged_run: Harness) -> None:
    crashed = contrast_of(damaged_run, "linear_regression-classic")
    assert crashed["verdict"] == "failed"
    assert crashed["ratio"] is None
    document = report(damaged_run.folder)
    failures = [failure for failure in document["failures"] if "classic" in failure["cell"]]
    assert failures
    for failure in failures:
        assert failure["kind"] == "crashed"
        assert "ended with exit status 3 while asked to open" in failure["reason"]
        assert "a last word" in (damaged_run.folder / failure["log"]).read_text()
    assert "a last word" in damaged_run.stderr
    assert sum(cell["failed"] for cell in document["cells"]) == len(failures)


# The engine, with a wall that can fall


class Proxy:
    """The engine's socket under another name, served by a process that can vanish."""

    SERVE = """
import socket, sys, threading
def pump(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
        b.shutdown(socket.SHUT_WR)
    except OSError:
        pass
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen(64)
print("ready", flush=True)
while True:
    near, _ = server.accept()
    far = socket.socket(socket.AF_UNIX)
    far.connect(sys.argv[2])
    for pair in ((near, far), (far, near)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
"""

    def __init__(self, path: Path) -> None:
        self.path = path
        with contextlib.closing(engine()) as client:
            address = client.api.base_url
        real = "/var/run/docker.sock" if address.startswith("http+docker") else address
        if not Path(real).exists():
            pytest.skip(f"the engine is at {address}, and this test needs a socket of the file system")
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.SERVE, path, real], stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n"

    def vanish(self) -> None:
        """Every connection breaks at once, and no new one is had."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()
