"""The command line, as a process: every bad input is one line and exit 2, nothing is left behind, no traceback ever."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from synthetic_run import whole_run

from bench import __version__

SMALL = "axes: {workload: [{name: linear_regression, preset: classic}]}\nbudget: {blocks: 1}\n"


def bench(*arguments: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=cwd, env={**os.environ, "COLUMNS": "120", **variables},
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess[str], *words: str, code: int = 2) -> None:
    """One line on stderr that says all the words; nothing on stdout."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(("Usage:", "Try "))]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]


# Bad input


def test_a_misspelt_axis_names_file_line_word_and_near_match(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("axes: {framwork: [tensorflow]}")
    refused(bench("run", "--matrix", "m.yaml", cwd=tmp_path), "m.yaml:1:", '"framwork"', "framework")
    assert [path.name for path in tmp_path.iterdir()] == ["m.yaml"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"axes: [", ("m.yaml:",)),
        (b"\xff\xfe\x00", ("m.yaml", "UTF-8")),
        (b"", ("m.yaml",)),
        (b"axes:\n  workload: [mnist_cnn]\n  workload: [mnist_cnn]\n", ("m.yaml:3:", '"workload"')),
        (b"axes:\n  workload: []\n", ("m.yaml:2:",)),
        (b"axes:\n  workload: [mnist_cnn]\n  mode: [turbo]\n", ("m.yaml:3:", '"turbo"', "eager")),
        (b"axes:\n  workload: [{name: linear_regression, n: many}]\n", ("m.yaml:2:", "n is 'many'")),
        (b"axes:\n  workload: [mnist_cnn]\n  framework: [tensorflow]\n", ("m.yaml:3:", "nothing to compare")),
        (b"axes: {workload: [mnist_cnn], batch_size: [" + b",".join(b"%d" % i for i in range(1, 10_002)) + b"]}",
         ("m.yaml", "--yes")),
        (b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(b"b%d: &b%d [%s]\n" % (i, i, b",".join([b"*a" if i == 0 else b"*b%d"
         % (i - 1)] * 9)) for i in range(9)), ("m.yaml:",)),
    ],
    ids=["yaml", "utf8", "empty", "twice", "no-values", "mode", "parameter", "alone", "absurd", "bomb"],
)  # fmt: skip
def test_a_broken_matrix_is_one_line_with_its_place(tmp_path: Path, text: bytes, words: tuple[str, ...]) -> None:
    (tmp_path / "m.yaml").write_bytes(text)
    refused(bench("run", "--matrix", "m.yaml", cwd=tmp_path), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["m.yaml"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run",), ("give --matrix", "quick", "default", "--resume")),
        (("run", "--matrix", "quik"), ("quik", "quick")),
        (("run", "--matrix", "absent.yaml"), ("absent.yaml",)),
        (("run", "--matrix", "."), (".",)),
        (("run", "--matrix", "quick", "--launcher", "podman"), ("podman", "docker")),
        (("run", "--matrix", "quick", "--seed", "-1"), ("-1",)),
        (("run", "--matrix", "quick", "--budget", "soon"), ("--budget soon",)),
        (("run", "--matrix", "quick", "--out", "file"), ("file",)),
        (("run", "--matrix", "quick", "--resume", "r"), ("--resume", "leave out --matrix")),
        (("run", "--resume", "r", "--seed", "3"), ("leave out --seed",)),
        (("run", "--resume", "r", "--base", "debian:12"), ("leave out --base",)),
        (("run", "--resume", "absent"), ("absent: no run here",)),
        (("run", "--resume", "."), (".: no run here",)),
        (("run", "--fast",), ("--fast",)),
        (("report", "."), (".: no run here", "run.json")),
        (("report", "absent"), ("absent: no run here",)),
        (("report", "run", "--format", "xml"), ("xml", "json")),
        (("report",), ("RUN",)),
        (("repot",), ("repot",)),
        (("parity", "alexnet"), ("alexnet", "mnist_cnn")),
        (("images", "build", "jax"), ("jax", "pytorch")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)  # fmt: skip
@pytest.mark.second
def test_a_bad_command_line_is_one_line_and_exit_2(
    tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    (tmp_path / "file").touch()
    refused(bench(*arguments, cwd=tmp_path), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_gpu_that_is_absent_is_one_line_and_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(SMALL)
    cache = tmp_path / "cache"
    done = bench("run", "--matrix", "m.yaml", "--device", "cuda", cwd=tmp_path, BENCH_CACHE=str(cache))
    refused(done, "device cuda: ", "--device cpu")  # with a GPU: the frameworks' images have no CUDA
    assert not (tmp_path / "runs").exists()
    assert not list(cache.rglob("*.whl"))


def test_an_output_folder_that_cannot_be_made_is_found_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(SMALL)
    (tmp_path / "file").touch()
    done = bench("run", "--matrix", "m.yaml", "--launcher", "local", "--out", "file/inside", cwd=tmp_path)
    refused(done, "file/inside", "--out")


def test_a_run_folder_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text('{"schema": "bench.run/0"}')
    for arguments in (("report", "old"), ("run", "--resume", "old")):
        refused(bench(*arguments, cwd=tmp_path), "old/run.json", "schema 'bench.run/0' is unknown")


def test_an_engine_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(SMALL)
    nowhere = f"unix://{tmp_path}/none.sock"
    done = bench("run", "--matrix", "m.yaml", "--launcher", "docker", cwd=tmp_path, DOCKER_HOST=nowhere)
    refused(done, "no Docker engine answers at", "--launcher local", code=3)
    assert not (tmp_path / "runs").exists()
    refused(bench("images", "list", cwd=tmp_path, DOCKER_HOST=nowhere), "no Docker engine answers", code=3)


# What works


def test_version_and_help_are_on_stdout(tmp_path: Path) -> None:
    assert bench("--version", cwd=tmp_path).stdout == f"bench, version {__version__}\n"
    for verb in ([], ["run"], ["report"], ["parity"], ["matrix", "schema"], ["images", "build"], ["data", "fetch"]):
        done = bench(*verb, "--help", cwd=tmp_path)
        assert done.returncode == 0
        assert done.stdout.startswith("Usage: ")


def test_the_matrix_schema_is_json_on_stdout(tmp_path: Path) -> None:
    schema = json.loads(bench("matrix", "schema", cwd=tmp_path).stdout)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert {"axes", "include", "exclude", "compare", "baseline", "budget"} <= set(schema["properties"])


@pytest.mark.parametrize("kind", ["table", "markdown", "csv", "json"])
@pytest.mark.second
def test_a_report_goes_to_stdout_alone_by_folder_or_by_id(tmp_path: Path, kind: str) -> None:
    folder = stored(tmp_path)
    by_folder = bench("report", folder, "--format", kind, cwd=tmp_path)
    by_id = bench("report", folder.name, "--out", folder.parent, "--format", kind, cwd=tmp_path)
    assert (by_folder.returncode, by_folder.stderr) == (0, "")
    assert by_folder.stdout == by_id.stdout
    assert "linear_regression" in by_folder.stdout
    if kind == "json":
        assert json.loads(by_folder.stdout)["schema"] == "bench.report/1"


@pytest.mark.second
def test_a_reader_that_goes_away_makes_no_noise(tmp_path: Path) -> None:
    folder = stored(tmp_path)
    command = f"'{sys.executable}' -m bench report '{folder}' --format json | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.second
def test_an_interrupt_exits_130_without_a_traceback(tmp_path: Path, number: signal.Signals) -> None:
    """It waits for a lock of the cache when it is interrupted: anywhere between two steps."""
    import fcntl

    (tmp_path / "m.yaml").write_text(SMALL.replace("{name: linear_regression, preset: classic}", "mnist_cnn"))
    locks = tmp_path / "cache" / "locks"
    locks.mkdir(parents=True)
    with (locks / "data-mnist.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = subprocess.Popen(
            ["env", "--default-signal=INT", sys.executable, "-m", "bench", "run", "--matrix", "m.yaml"],
            cwd=tmp_path, env={**os.environ, "BENCH_CACHE": str(tmp_path / "cache")}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        until = time.monotonic() + 30
        while not waits_for_a_lock(process.pid) and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(number)
        printed, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert printed == ""
    assert not (tmp_path / "runs").exists()


def waits_for_a_lock(pid: int) -> bool:
    return bool(re.search(rf"-> FLOCK .* {pid} ", Path("/proc/locks").read_text()))


def stored(tmp_path: Path) -> Path:
    return whole_run(tmp_path / "runs" / "one").folder
