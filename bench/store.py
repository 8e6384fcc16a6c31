"""The run folder: append, read, resume. What is in it is the truth; every table is derived from it.

<out>/<run-id>/
run.json        schema, matrix as resolved, environment, commit, image ids, seed, keys of the comparisons
blocks.jsonl    one line a block with all its arms' outcomes, appended and fsynced after its samples
parity.jsonl    one certificate a contrast, or why there is none; of two the later counts
steps/          raw step times in ns, Parquet, one file a block
telemetry/      readings of the sampler, Parquet, one file a block
logs/           stderr of workers that failed
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench import storage
from bench.errors import InputError, StorageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pandas as pd

RUN_SCHEMA = "bench.run/1"
BLOCK_SCHEMA = "bench.block/1"
PARITY_SCHEMA = "bench.parity/1"

# What runs of earlier versions did not keep, and what stands for it. Nothing else in bench knows that versions differ.
_LATER_IN_RUN: dict[str, Any] = {"cpus": None, "harness": None, "workloads": None, "plans": {}}
_LATER_IN_MATRIX: dict[str, Any] = {"schedule": "lockstep", "telemetry": {}}  # no other schedule was known
_LATER_IN_PLAN: dict[str, Any] = {
    **{name: {} for name in ("timer_share", "control_share", "pilot", "warm_up", "timer_ns", "control_ns", "cold")},
    "block_s": None,
    "prologue_s": None,
}
_LATER_IN_OUTCOME: dict[str, Any] = {"spans": {}, "gpu": None}

# One row a measured step (sync "step") or a slice (sync "slice": `steps` of them in one `time_ns`).
# start_ns and end_ns (CLOCK_MONOTONIC) and cpu_ns are of the whole slice, settling included, repeated on its rows.
# `settling` rows are the first steps after a switch of arms: recorded, and left out of every estimate.
STEP_COLUMNS = {
    "arm": "string",
    "round": "int32",
    "position": "int32",
    "sync": "string",
    "settling": "bool",
    "steps": "int32",
    "time_ns": "int64",
    "start_ns": "int64",
    "end_ns": "int64",
    "cpu_ns": "int64",
}


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run as read from its folder: plain JSON records, and the steps of a block on demand."""

    folder: Path
    run: dict[str, Any]
    blocks: list[dict[str, Any]] = field(default_factory=list)
    certificates: list[dict[str, Any]] = field(default_factory=list)

    def certificates_of(self, comparison: str) -> dict[str, dict[str, Any]]:
        """The certificate of every contrast of a comparison that has one, by its arm: of several the last counts."""
        return {one["arm"]: one for one in self.certificates if one["comparison"] == comparison}

    def steps(self, block: Mapping[str, Any]) -> pd.DataFrame:
        """Raw samples of one block, columns as STEP_COLUMNS; empty when every arm failed before the first slice."""
        import pandas as pd

        path = self.folder / "steps" / f"{stem(block)}.parquet"
        if not path.exists():
            return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in STEP_COLUMNS.items()})
        try:
            return pd.read_parquet(path)
        except (OSError, ValueError) as error:  # pyarrow's own are ValueErrors and OSErrors
            raise InputError(f"{path}: cannot be read ({_line(error)}); the run folder is damaged") from None

    def telemetry(self, block: Mapping[str, Any]) -> Path | None:
        """The Parquet file of a block's readings, or None where nothing was sampled."""
        path = self.folder / "telemetry" / f"{stem(block)}.parquet"
        return path if path.exists() else None


def stem(block: Mapping[str, Any]) -> str:
    """The file name that a block's samples share: comparison, block and attempt."""
    return f"{block['comparison']}.{block['block']:03d}.{block['attempt']}"


def read(folder: Path) -> StoredRun:
    """The run in `folder`; a torn last line is dropped. Raises InputError if it is no run folder."""
    return StoredRun(
        folder=folder,
        run=read_run(folder),
        blocks=[block_of_today(record) for record in _lines(folder / "blocks.jsonl", BLOCK_SCHEMA)],
        certificates=_lines(folder / "parity.jsonl", PARITY_SCHEMA),
    )


def find(given: Path, out: Path) -> Path:
    """A run folder, or the id of a run inside `out`. Raises InputError."""
    for folder in (given, out / given):
        if (folder / "run.json").exists():
            return folder
    raise InputError(f"{given}: no run here, and none of that id in {out}; name a folder that holds run.json")


def last_block(folder: Path) -> tuple[int, dict[str, Any] | None]:
    """How many blocks are kept, and the last of them; the others are not read."""
    lines = _whole_lines(folder / "blocks.jsonl")
    if not lines:
        return 0, None
    return len(lines), block_of_today(_record(lines[-1], folder / "blocks.jsonl", len(lines), BLOCK_SCHEMA))


def read_run(folder: Path) -> dict[str, Any]:
    """The header of the run in `folder` alone. Raises InputError if it is no run folder."""
    path = folder / "run.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: no run.json here; name a run folder, such as runs/<run-id>") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read ({error}); the run folder is damaged") from None
    if not isinstance(run, dict) or run.get("schema") != RUN_SCHEMA:
        raise InputError(f"{path}: schema {_schema(run)!r} is unknown; this version of bench reads {RUN_SCHEMA}")
    return run_of_today(run)


def run_of_today(run: Mapping[str, Any]) -> dict[str, Any]:
    """A header with all that this version keeps in it, whichever version wrote it."""
    header = _completed(run, _LATER_IN_RUN)
    header["matrix"] = _completed(header.get("matrix", {}), _LATER_IN_MATRIX)
    header["plans"] = {name: _completed(plan, _LATER_IN_PLAN) for name, plan in header["plans"].items()}
    return header


def block_of_today(record: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a block's record."""
    arms = {arm: _completed(outcome, _LATER_IN_OUTCOME) for arm, outcome in record.get("arms", {}).items()}
    return {**record, "arms": arms}


def _completed(kept: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """What was kept, in its order, then what was not."""
    return {**kept, **{name: value for name, value in later.items() if name not in kept}}


def refuse_unmakeable(folder: Path) -> None:
    """Raises InputError where the folder could not be made; makes nothing."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise InputError(f"{folder}: cannot be made ({nearest} is a file); choose another --out")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: cannot be made ({nearest} may not be written to); choose another --out")


class Store:
    """The one writer of a run folder. Every append is on disk before the call returns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, run: Mapping[str, Any]) -> Store:
        """Begin a run: the folder must not exist yet."""
        if folder.exists():
            raise InputError(f"{folder}: exists already; choose another --out, or --resume it")
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another --out") from None
        store = cls(folder)
        try:
            with storage.told(folder):
                for name in ("steps", "telemetry", "logs"):
                    (folder / name).mkdir()
                store.write_run(run)
                for name in ("blocks.jsonl", "parity.jsonl"):
                    (folder / name).touch()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # nothing is in it yet, and it could not be resumed
            raise
        return store

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: two harnesses never write into one run."""
        with storage.told(self.folder):
            handle = (self.folder / ".lock").open("w")
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{self.folder}: another bench is writing this run; wait for it or stop it") from None
            yield

    def write_run(self, run: Mapping[str, Any]) -> None:
        """Replace run.json in one step."""
        replace_file(self.folder / "run.json", {"schema": RUN_SCHEMA, **run})

    def append_block(self, record: Mapping[str, Any], steps: list[dict[str, Any]]) -> None:
        """Samples first, then the line that makes them count; neither, where the disk refuses one of them."""
        samples = self.folder / "steps" / f"{stem(record)}.parquet"
        if steps:
            self._write_steps(samples, steps)
        try:
            _append(self.folder / "blocks.jsonl", {"schema": BLOCK_SCHEMA, **record})
        except StorageFailed:
            with suppress(OSError):
                samples.unlink()
            raise

    def append_certificate(self, record: Mapping[str, Any]) -> None:
        """One certificate of a contrast: from now on the one that counts."""
        _append(self.folder / "parity.jsonl", {"schema": PARITY_SCHEMA, **record})

    def write_log(self, record: Mapping[str, Any], arm: str, text: str) -> str:
        """Keep a failed worker's stderr; returns its name inside the run folder."""
        name = f"logs/{stem(record)}.{arm}.log"
        _replace(self.folder / name, text.encode("utf-8", "replace"))
        return name

    @staticmethod
    def _write_steps(path: Path, steps: list[dict[str, Any]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = {"string": pa.string(), "int32": pa.int32(), "int64": pa.int64(), "bool": pa.bool_()}
        schema = pa.schema([(name, kinds[kind]) for name, kind in STEP_COLUMNS.items()])
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(steps, schema=schema), sink, compression="zstd")
        _replace(path, sink.getvalue().to_pybytes())


def replace_file(path: Path, plain: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step, on disk before the call returns."""
    _replace(path, (json.dumps(plain, indent=1, allow_nan=False) + "\n").encode())


def repair(folder: Path) -> None:
    """Cut a torn last line off both journals, so that the next append starts on a line of its own."""
    for name in ("blocks.jsonl", "parity.jsonl"):
        path = folder / name
        with storage.told(folder):
            data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            _replace(path, whole)


def _lines(path: Path, schema: str) -> list[dict[str, Any]]:
    return [_record(line, path, number, schema) for number, line in enumerate(_whole_lines(path), start=1)]


def _whole_lines(path: Path) -> list[bytes]:
    """All but what follows the last newline, which is torn, or nothing."""
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({_line(error)}); the run folder is damaged") from None


def _record(line: bytes, path: Path, number: int, schema: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        raise InputError(f"{path}:{number}: not JSON; the run folder is damaged") from None
    if not isinstance(record, dict) or record.get("schema") != schema:
        raise InputError(f"{path}:{number}: schema {_schema(record)!r} is unknown; this bench reads {schema}")
    return record


def _schema(record: object) -> object:
    return record.get("schema") if isinstance(record, dict) else type(record).__name__


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def _append(path: Path, record: Mapping[str, Any]) -> None:
    """A whole line on disk, or no part of it. Raises StorageFailed."""
    line = json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    with storage.told(path.parent):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        before = os.fstat(descriptor).st_size
        try:
            _write(descriptor, line)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(descriptor, before)
            raise
        finally:
            os.close(descriptor)


def _replace(path: Path, data: bytes) -> None:
    """The whole file on disk, or the one that was there before. Raises StorageFailed."""
    temporary = path.with_name(f".{path.name}.part")
    with storage.told(path.parent):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                _write(descriptor, data)
            finally:
                os.close(descriptor)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _write(descriptor: int, data: bytes) -> None:
    """All of it, and to the disk: no buffer is left that would be written once more when the file is closed."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)
