"""The run folder: what was appended is there, whatever killed the writer; what is damaged is one sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench import store
from bench.errors import InputError
from bench.store import STEP_COLUMNS, Store, read, repair, stem

WRITER = """
import sys
from pathlib import Path
from bench.store import Store
store = Store(Path(sys.argv[1]))
with store.locked():
    print("writing", flush=True)
    for number in range(int(sys.argv[2])):
        record = {"comparison": "a", "block": number, "attempt": 0, "arms": {}, "filler": "x" * 2000}
        steps = [dict(arm="tf", round=0, position=0, sync="slice", settling=False, steps=3, time_ns=number + 1,
                      start_ns=1, end_ns=2, cpu_ns=1)] * 50
        store.append_block(record, steps)
    sys.stdin.read()
"""


def record(block: int, *, attempt: int = 0) -> dict[str, Any]:
    return {"comparison": "cnn-train", "block": block, "attempt": attempt, "spoiled": [], "arms": {}}


def step(**values: Any) -> dict[str, Any]:
    row = dict.fromkeys(STEP_COLUMNS, 1) | {"arm": "tensorflow", "sync": "slice", "settling": False}
    return row | values


@pytest.fixture
def made(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "runs" / "one", {"id": "one"})


def writer(folder: Path, blocks: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, folder, str(blocks)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline() == b"writing\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


# Append and read


def test_what_was_appended_is_read_in_order(made: Store) -> None:
    for number in range(3):
        made.append_block(record(number), [step(time_ns=number + 1), step(arm="pytorch", settling=True)])
    made.append_certificate({"comparison": "cnn-train", "arm": "pytorch", "status": "passed"})
    stored = read(made.folder)
    assert stored.run["id"] == "one"
    assert [{key: value for key, value in one.items() if key != "schema"} for one in stored.blocks] == [
        record(number) for number in range(3)
    ]
    assert stored.certificates[0]["status"] == "passed"
    steps = stored.steps(stored.blocks[2])
    assert list(steps.columns) == list(STEP_COLUMNS)
    assert steps["time_ns"].tolist() == [3, 1]
    assert steps["settling"].tolist() == [False, True]


def test_a_block_without_samples_has_an_empty_table_with_every_column(made: Store) -> None:
    made.append_block(record(0), [])
    stored = read(made.folder)
    assert stored.steps(stored.blocks[0]).empty
    assert list(stored.steps(stored.blocks[0]).columns) == list(STEP_COLUMNS)
    assert stored.telemetry(stored.blocks[0]) is None


def test_attempts_of_a_block_have_files_of_their_own(made: Store) -> None:
    made.append_block(record(0), [step(time_ns=1)])
    made.append_block(record(0, attempt=1), [step(time_ns=2)])
    stored = read(made.folder)
    assert len({stem(one) for one in stored.blocks}) == 2
    assert [stored.steps(one)["time_ns"].tolist() for one in stored.blocks] == [[1], [2]]


def test_samples_are_on_disk_before_the_line_that_makes_them_count(
    made: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(store, "_append", fail)
    with pytest.raises(OSError, match="no space left"):
        made.append_block(record(0), [step()])
    assert (made.folder / "steps" / f"{stem(record(0))}.parquet").exists()
    assert read(made.folder).blocks == []


def test_a_number_that_json_lacks_is_never_written(made: Store) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        made.append_block({**record(0), "wall_s": float("nan")}, [])
    assert read(made.folder).blocks == []


def test_a_log_is_kept_and_named_by_its_arm(made: Store) -> None:
    name = made.write_log(record(2), "pytorch", "Segmentation fault \udcff\n")
    assert name == "logs/cnn-train.002.0.pytorch.log"
    assert (made.folder / name).read_text().startswith("Segmentation fault")


def test_run_json_is_replaced_in_one_step(made: Store) -> None:
    made.write_run({"id": "one", "finished_at": "now"})
    assert read(made.folder).run["finished_at"] == "now"
    with pytest.raises(ValueError, match="not JSON compliant"):
        made.write_run({"id": float("inf")})
    assert read(made.folder).run["finished_at"] == "now"


# Torn and damaged


@pytest.mark.parametrize("torn", [b'{"schema": "bench.bl', b"{}", b"\xff\xfe\x00"])
def test_a_torn_last_line_is_dropped_and_repaired(made: Store, torn: bytes) -> None:
    made.append_block(record(0), [])
    journal = made.folder / "blocks.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole + torn)
    assert [one["block"] for one in read(made.folder).blocks] == [0]
    repair(made.folder)
    assert journal.read_bytes() == whole
    made.append_block(record(1), [])
    assert [one["block"] for one in read(made.folder).blocks] == [0, 1]


def test_a_repair_changes_no_whole_journal(made: Store) -> None:
    made.append_block(record(0), [])
    before = (made.folder / "blocks.jsonl").stat()
    repair(made.folder)
    after = (made.folder / "blocks.jsonl").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"{broken\n", "blocks.jsonl:2: not JSON; the run folder is damaged"),
        (b"\n", "blocks.jsonl:2: not JSON"),
        (b"[1]\n", "blocks.jsonl:2: schema 'list' is unknown"),
        (b'{"schema": "bench.block/9"}\n', "blocks.jsonl:2: schema 'bench.block/9' is unknown"),
    ],
)
def test_a_damaged_line_in_the_middle_is_one_sentence_with_its_place(made: Store, line: bytes, sentence: str) -> None:
    made.append_block(record(0), [])
    with (made.folder / "blocks.jsonl").open("ab") as journal:
        journal.write(line)
    made.append_block(record(1), [])
    with pytest.raises(InputError) as caught:
        read(made.folder)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "no run.json here; name a run folder"),
        ("{", "the run folder is damaged"),
        ("[]", "schema 'list' is unknown"),
        ('{"schema": "bench.run/7"}', "schema 'bench.run/7' is unknown; this version of bench reads bench.run/1"),
    ],
)
def test_a_folder_that_is_no_run_is_one_sentence(tmp_path: Path, text: str | None, sentence: str) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert sentence in str(caught.value)


def test_a_folder_that_exists_or_cannot_be_made_is_refused(made: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already; choose another --out, or --resume it"):
        Store.create(made.folder, {})
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"):
        Store.create(tmp_path / "file" / "run", {})


# Two writers, and killed ones


def test_two_writers_of_one_run_are_refused_and_a_dead_one_holds_nothing(made: Store) -> None:
    process = writer(made.folder, 0)
    try:
        with pytest.raises(InputError, match="another bench is writing this run"), made.locked():
            pytest.fail("it must not get in")
    finally:
        end(process)
    with made.locked():
        made.append_block(record(0), [])


def test_a_writer_that_is_killed_leaves_whole_records_and_their_samples(made: Store) -> None:
    for attempt in range(4):
        process = writer(made.folder, 10**6)
        before = len(read(made.folder).blocks)
        while len(read(made.folder).blocks) == before:
            time.sleep(0.001)
        time.sleep(0.013 * (attempt + 1))
        os.kill(process.pid, signal.SIGKILL)
        end(process)
        stored = read(made.folder)
        assert len(stored.blocks) > before
        for one in stored.blocks[before:]:
            assert len(one["filler"]) == 2000
            assert stored.steps(one)["time_ns"].tolist() == [one["block"] + 1] * 50
        repair(made.folder)


def test_every_append_is_flushed_to_the_disk(made: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []  # names of files and folders
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(Path(f"/proc/self/fd/{fd}").readlink().name), real(fd))[1]
    )
    made.append_block(record(0), [step()])
    assert synced == [f".{stem(record(0))}.parquet.part", "steps", "blocks.jsonl"]


def test_json_lines_are_plain_text_that_others_can_read(made: Store) -> None:
    made.append_block(record(0), [])
    (line,) = (made.folder / "blocks.jsonl").read_text(encoding="ascii").splitlines()
    assert json.loads(line)["schema"] == "bench.block/1"


def test_a_run_of_the_first_version_is_read_with_all_that_is_kept_today(made: Store) -> None:
    plan = {"steps": {"tf": 3}, "settle_steps": 1, "rounds": 2, "warm_steps": {"tf": 5}, "step_ns": {"tf": 7.0}}
    made.write_run({"id": "one", "matrix": {"name": "m"}, "plans": {"cnn-train": plan}})
    made.append_block({**record(0), "arms": {"tf": {"status": "ok"}}}, [])
    found = read(made.folder)
    assert found.run["matrix"] == {"name": "m", "schedule": "lockstep", "telemetry": {}}
    assert {found.run[name] for name in ("cpus", "harness", "workloads")} == {None}
    assert found.run["plans"]["cnn-train"] == {
        **plan, "timer_share": {}, "control_share": {}, "pilot": {}, "warm_up": {}, "timer_ns": {}, "control_ns": {},
        "cold": {}, "block_s": None, "prologue_s": None,
    }  # fmt: skip
    assert found.blocks[0]["arms"]["tf"] == {"status": "ok", "spans": {}, "gpu": None}
    assert store.last_block(made.folder) == (1, found.blocks[0])
    assert json.loads((made.folder / "run.json").read_text())["plans"] == {"cnn-train": plan}, "nothing is rewritten"
