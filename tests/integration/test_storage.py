"""Disks that fill up, folders that go, programs that do not start: one sentence, exit 3, nothing lost or twice."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from absent import absent
from synthetic_run import whole_run

from bench import store
from bench.cli import main
from bench.errors import InputError, ProcessRefused, StorageFailed
from bench.launch import local
from bench.launch.local import start_process
from bench.measure import run
from bench.store import Store
from bench.telemetry import Sampler
from bench.validate import suite

BLOCKS = 3
MIB = 2**20
LIMIT_S = 240


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 8 MiB."""
    if os.geteuid() != 0:
        absent("a small disk is mounted by root alone")
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        absent(f"no tmpfs can be mounted here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def fill(disk: Path, *, leave_bytes: int = 0) -> Path:
    """A file that takes all room but so much."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        file.write(b"\0" * max(0, free - leave_bytes))
    return filler


class Bench:
    """`bench` as a user starts it, and what it said."""

    def __init__(self, *arguments: str | Path, stdout: Any = subprocess.PIPE, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench", *map(str, arguments)],
            stdout=stdout, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200", **variables},
        )  # fmt: skip
        self.said: list[str] = []
        assert self.process.stderr
        self._reader = threading.Thread(target=self.said.extend, args=(self.process.stderr,))
        self._reader.start()

    @property
    def stderr(self) -> str:
        return "".join(self.said)

    def until(self, happened: Callable[[], object]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not happened():
            assert self.process.poll() is None, self.stderr
            assert time.monotonic() < deadline, self.stderr
            time.sleep(0.01)

    def end(self) -> int:
        code = self.process.wait(LIMIT_S)
        self._reader.join()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()
        assert "Traceback" not in self.stderr, self.stderr
        return code

    def sentence(self) -> str:
        """The last line, which says what went wrong."""
        (line,) = [line for line in self.said if line.startswith("bench: ")]
        assert line == self.said[-1]
        return line


def run_of_stubs(out: Path, folder: Path, *, blocks: int = BLOCKS) -> Bench:
    matrix = folder / "stubs.yaml"
    axes = "{workload: [{name: stub, bytes: 131072}], framework: [{name: stub}, {name: stub, work: 1.5}]}"
    matrix.write_text(f"name: stubs\naxes: {axes}\nbudget: {{blocks: {blocks}}}\nseed: 3\n")
    return Bench("run", "--matrix", matrix, "--launcher", "local", "--out", out)


def lines(out: Path) -> list[str]:
    return [line for path in out.glob("stubs-*/blocks.jsonl") for line in path.read_text().splitlines()]


def the_run(out: Path) -> Path:
    (folder,) = out.glob("stubs-*")
    return folder


def whole(folder: Path) -> None:
    """Every record has its samples and no more, every Parquet is one, and nothing half-written is left."""
    stored = store.read(folder)
    assert (folder / "blocks.jsonl").read_bytes()[-1:] in (b"", b"\n")
    assert sorted(path.name for path in (folder / "steps").iterdir()) == sorted(
        f"{store.stem(record)}.parquet" for record in stored.blocks
    )
    for record in stored.blocks:
        assert len(stored.steps(record)) > 100
    for path in (folder / "telemetry").glob("*.parquet"):
        pd.read_parquet(path)
    left = [path.name for path in folder.rglob("*") if path.name.endswith((".part", ".csv"))]
    assert left == []


def completed(folder: Path, blocks: int = BLOCKS) -> None:
    """The resumed run has everything once."""
    stored = store.read(folder)
    assert stored.run["finished_at"]
    attempts = Counter((one["comparison"], one["block"], one["attempt"]) for one in stored.blocks)
    assert set(attempts.values()) == {1}
    measured = {one["block"] for one in stored.blocks}
    assert measured >= set(range(blocks)), "a spoiled block is repeated, and may be replaced"
    whole(folder)


def resumed(out: Path) -> None:
    again = Bench("run", "--resume", the_run(out))
    assert again.end() in (0, 3), again.stderr  # 3: a block that a neighbour spoiled to the last attempt
    assert "bench: " not in again.stderr
    completed(the_run(out))


# A run whose disk fills up, and goes


def test_a_disk_that_fills_up_within_a_block_stops_the_run_with_one_sentence_and_resume_completes_it(
    disk: Path, tmp_path: Path
) -> None:
    out = disk / "runs"
    bench = run_of_stubs(out, tmp_path)
    bench.until(lambda: len(lines(out)) >= 1)
    filler = fill(disk, leave_bytes=9_000)
    assert bench.end() == 3
    folder = the_run(out)
    assert str(folder) in bench.sentence()
    assert "(No space left on device); make room on its disk" in bench.sentence()
    assert f"To go on: bench run --resume {folder}" in bench.stderr
    kept = lines(out)
    assert 1 <= len(kept) < BLOCKS
    whole(folder)
    remount(disk, "ro")
    still = Bench("run", "--resume", folder)
    assert still.end() == 3
    assert "(Read-only file system); make its file system writable" in still.sentence()
    shown = Bench("report", folder, stdout=subprocess.DEVNULL)
    assert shown.end() == 0, "what is there can be read"
    assert lines(out) == kept
    remount(disk, "rw")
    filler.unlink()
    again = Bench("run", "--resume", folder)
    assert again.end() in (0, 3), again.stderr  # 3: blocks that a neighbour spoiled to the last attempt
    assert "bench: " not in again.stderr
    assert lines(out)[: len(kept)] == kept
    completed(folder)


def test_a_run_folder_that_is_removed_meanwhile_stops_the_run_with_one_sentence(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    bench = run_of_stubs(out, tmp_path, blocks=20)
    bench.until(lambda: len(lines(out)) >= 1)
    folder = the_run(out)
    folder.rename(tmp_path / "elsewhere")
    assert bench.end() == 3
    assert f"{folder}" in bench.sentence()
    assert "it was moved or removed meanwhile" in bench.sentence()
    assert "--resume" not in bench.stderr, "there is nothing at that place to go on with"
    with Sampler(tmp_path / "elsewhere"):
        pass  # what could not be found where it was, the next sampler there removes
    whole(tmp_path / "elsewhere")


def test_a_run_whose_folder_went_between_two_blocks_is_refused_by_the_disk_and_not_by_the_user(tmp_path: Path) -> None:
    """Whether a read or a write meets it first is chance."""
    view: Any = SimpleNamespace(say=pytest.fail)
    gone = tmp_path / "gone"
    with pytest.raises(StorageFailed, match="it was moved or removed"), run._told_how_to_resume(gone, view):
        store.read(gone)
    Store.create(tmp_path / "here", {})
    with pytest.raises(InputError, match="another reason"), run._told_how_to_resume(tmp_path / "here", view):
        raise InputError("another reason")


def test_a_run_that_has_no_room_to_begin_leaves_no_folder(disk: Path, tmp_path: Path) -> None:
    out = disk / "runs"
    out.mkdir()
    filler = fill(disk)
    bench = run_of_stubs(out, tmp_path)
    assert bench.end() == 3
    assert "(No space left on device); make room on its disk" in bench.sentence()
    assert list(out.iterdir()) == []
    filler.unlink()


def test_a_cache_without_room_is_one_sentence(disk: Path, tmp_path: Path) -> None:
    fill(disk)
    (tmp_path / "m.yaml").write_text("axes: {workload: [stub], framework: [{name: stub}, {name: stub, work: 2}]}\n")
    command = ("run", "--matrix", tmp_path / "m.yaml", "--launcher", "local", "--out", tmp_path / "runs")
    bench = Bench(*command, BENCH_CACHE=str(disk / "cache"))
    assert bench.end() == 3
    assert str(disk / "cache") in bench.sentence()
    assert "make room on its disk, or name another folder in BENCH_CACHE" in bench.sentence()


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.ENOSPC, "No space left on device"), StorageFailed("it is full"), ProcessRefused("no worker starts")],
)
def test_whatever_the_machine_refuses_in_a_run_is_told_with_how_to_resume(tmp_path: Path, failure: Exception) -> None:
    said: list[str] = []
    view: Any = SimpleNamespace(say=said.append)
    made = Store.create(tmp_path / "run", {})
    with pytest.raises((StorageFailed, ProcessRefused)), run._told_how_to_resume(made.folder, view):
        raise failure
    assert said == [f"stopped; every finished block is kept. To go on: bench run --resume {made.folder}"]


# The store by itself


def record(block: int) -> dict[str, Any]:
    return {"comparison": "c", "block": block, "attempt": 0, "filler": "x" * 3000}


def steps(rows: int) -> list[dict[str, Any]]:
    row = {"arm": "a", "round": 0, "position": 0, "sync": "slice", "settling": False, "steps": 1}
    return [row | {"time_ns": os.getpid() * n, "start_ns": n, "end_ns": n, "cpu_ns": n} for n in range(rows)]


@pytest.mark.parametrize("left_bytes", [0, 4096, 8192, 12_288, 16_384, 20_480])
def test_a_block_is_kept_whole_or_not_at_all_wherever_the_disk_ends(disk: Path, left_bytes: int) -> None:
    made = Store.create(disk / "run", {})
    for block in range(3):
        made.append_block(record(block), steps(100))
    filler = fill(disk, leave_bytes=left_bytes)
    kept = 3
    while kept < 30:
        try:
            made.append_block(record(kept), steps(100))
        except StorageFailed as failed:
            assert "No space left on device" in str(failed)  # noqa: PT017 - how many fit is not known
            break
        kept += 1
    assert kept < 30
    assert len((disk / "run/blocks.jsonl").read_bytes().splitlines()) == kept
    stored = store.read(disk / "run")
    assert [one["block"] for one in stored.blocks] == list(range(kept))
    assert len(list((disk / "run/steps").iterdir())) == kept
    with pytest.raises(StorageFailed):
        made.write_run({"large": "x" * 20 * MIB})
    assert store.read(disk / "run").run, "the header that was there is there still"
    filler.unlink()
    made.append_block(record(kept), steps(100))
    assert len(store.read(disk / "run").blocks) == kept + 1


def test_a_damaged_file_of_samples_is_one_sentence(tmp_path: Path) -> None:
    made = Store.create(tmp_path / "run", {})
    made.append_block(record(0), steps(10))
    (tmp_path / "run/steps/c.000.0.parquet").write_bytes(b"PAR1 and no more")
    stored = store.read(tmp_path / "run")
    with pytest.raises(store.InputError, match=r"c\.000\.0\.parquet: cannot be read .*the run folder is damaged"):
        stored.steps(stored.blocks[0])


def test_a_read_only_disk_takes_nothing_and_harms_nothing(disk: Path) -> None:
    made = Store.create(disk / "run", {})
    made.append_block(record(0), steps(100))
    remount(disk, "ro")
    writes = (
        lambda: made.append_block(record(1), steps(100)),
        lambda: made.append_block(record(1), []),
        lambda: made.append_certificate({}),
        lambda: made.write_log(record(1), "arm", "last words"),
        lambda: made.write_run({}),
        lambda: made.locked().__enter__(),
    )
    for write in writes:
        with pytest.raises(StorageFailed, match=r"\(Read-only file system\); make its file system writable$"):
            write()
    with pytest.raises(store.InputError, match="cannot be made"):
        Store.create(disk / "another", {})
    remount(disk, "rw")
    made.append_block(record(1), steps(100))
    assert [one["block"] for one in store.read(disk / "run").blocks] == [0, 1]


# The sampler


def test_a_sampler_whose_disk_is_full_says_so_and_leaves_no_half_of_a_file(disk: Path) -> None:
    with Sampler(disk, 50) as sampler:
        sampler.watch("arm", os.getpid(), "process")
        time.sleep(0.2)
        assert sampler.flush_block("first")
        fill(disk)
        sampler.watch("arm", os.getpid(), "process")
        time.sleep(0.2)
        assert sampler.flush_block("second") is None
        assert "No space left on device" in str(sampler.fault)
    left = sorted(path.name for path in (disk / "telemetry").iterdir() if path.name != ".sampler")
    assert left == ["first.parquet"]


def test_a_run_says_at_once_what_became_of_its_sampler_and_keeps_that_in_its_notes(tmp_path: Path) -> None:
    said: list[str] = []
    made = Store.create(tmp_path / "run", {"notes": []})
    going: Any = SimpleNamespace(store=made, header={"notes": []}, view=SimpleNamespace(say=said.append), noted=set())
    with Sampler(made.folder, 50) as sampler:
        going.bench = SimpleNamespace(sampler=sampler)
        run._flush(going, "first")
        assert said == []
        shutil.rmtree(made.folder / "telemetry")
        for _ in range(3):
            run._flush(going, "second")
    assert [one for one in said if "No such file or directory" in one] == said
    assert len(said) == len(set(said)) >= 1
    assert store.read(made.folder).run["notes"] == said


# Programs that do not start


def test_a_worker_whose_interpreter_is_gone_is_one_sentence_and_leaves_no_scratch_folder(tmp_path: Path) -> None:
    python = tmp_path / "gone/bin/python"
    with pytest.raises(ProcessRefused) as refused:
        start_process(python, root=tmp_path, cache=tmp_path / "cache", padding=0)
    assert str(refused.value) == (
        f"a worker with {python} cannot be started (No such file or directory); "
        "what was removed from the cache, the next run or --resume makes again"
    )
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_machine_that_allows_no_more_files_or_processes_is_one_sentence(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, limits[1]))
    try:
        with pytest.raises(ProcessRefused, match=r"\(Too many open files\); raise the limit on open files"):
            start_process(Path(sys.executable), root=tmp_path, cache=tmp_path / "cache", padding=0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("number", [11, 12])
def test_a_machine_without_memory_or_processes_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(local, "LocalChannel", refuse)
    with pytest.raises(ProcessRefused, match=r"free memory, or end or allow more processes \(ulimit -u\)$"):
        start_process(Path(sys.executable), root=tmp_path, cache=tmp_path / "cache", padding=0)
    assert list((tmp_path / "cache").iterdir()) == []


# What is printed


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_run(tmp_path_factory.mktemp("finished") / "run").folder


def test_an_output_that_takes_nothing_is_one_sentence(finished: Path) -> None:
    with Path("/dev/full").open("w") as full:
        bench = Bench("report", finished, "--format", "json", stdout=full)
        assert bench.end() == 3
    assert bench.said == [
        "bench: a file or the output: cannot be used (No space left on device); make room on its disk\n"
    ]


def test_a_reader_that_has_read_enough_ends_a_verb_without_a_word(finished: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        bench = Bench("report", finished, "--format", "json", stdout=writing)
    finally:
        os.close(writing)
    assert bench.end() == 3
    assert bench.said == []


def test_a_validation_whose_disk_is_full_says_how_to_go_on(
    disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(part: str, folder: Path, facts: Any, progress: Any) -> Iterator[Any]:
        fill(disk)
        yield from ()
        (folder / "rows.csv").write_text("x" * MIB)

    monkeypatch.setattr(suite, "_rows", measured)
    monkeypatch.setattr(sys, "argv", ["bench", "validate", "--only", "observer", "--out", str(disk / "runs")])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 3
    (folder,) = (disk / "runs").iterdir()
    said = capsys.readouterr().err
    assert f"bench: {folder}: cannot be used (No space left on device); make room on its disk\n" in said
    assert f"to go on: bench validate --resume {folder}\n" in said
