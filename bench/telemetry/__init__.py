"""What the arms and the GPUs do while a run goes on, read by one process of its own and kept a file a block.

A block's file is Parquet with the columns of COLUMNS. A row is one reading of one arm (`gpu` null), of one GPU (`arm`
null), of what one arm has of one GPU (both there) or of the processors' energy (neither), stamped with CLOCK_MONOTONIC,
which host and containers share; what was not read is null. The meaning and unit of each column stand with
`usage.Reading`, `gpu_reading.Reading`, `programs.Share` and `rapl.Packages`. How it was sampled, and why what is null
is null, is in the file's metadata: see `meta`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from bench import child
from bench.errors import InputError
from bench.records import DEFAULT_HZ, MAXIMUM_HZ
from bench.telemetry import gpu_reading, nvml, programs, usage

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "bench.telemetry/2"
COLUMNS = (
    *("t_ns", "arm", "gpu"),
    *usage.Reading._fields,
    *gpu_reading.Reading._fields,
    *programs.Share._fields,
    "package_energy_uj",
)
SOAK_HZ = 50.0
LIVE = ".sampler-{}.csv"  # in the folder telemetry/, while a block lasts; with the number of the process that writes it

_METADATA_KEY = b"bench.telemetry"
_START_LIMIT_S = 30.0  # NVML without persistence mode wakes the driver first
_ANSWER_LIMIT_S = 10.0
BETWEEN_SOAKS_S = 0.35  # and before and after them: some steps of an energy counter, in which no arm works


class Sampler:
    """The sampler process of a run, as its harness sees it; if it dies the run goes on and `fault` says why."""

    def __init__(self, out: Path, hz: float = DEFAULT_HZ, cpus: AbstractSet[int] | None = None) -> None:
        """Prepare, without starting anything.

        out    the run folder; readings go to its folder telemetry/
        hz     readings a second, at most MAXIMUM_HZ
        cpus   where the process may run; None leaves it where this one may
        """
        if not 0 < hz <= MAXIMUM_HZ:
            raise ValueError(f"{hz:g} readings a second cannot be had; choose up to {MAXIMUM_HZ:g}")
        self._folder = out / "telemetry"
        self._hz, self._cpus = hz, cpus
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = b""
        self.fault: str | None = None
        self.source: nvml.Source = "none"
        self.gpus: list[dict[str, Any]] = []
        self.package_energy_null: str | None = "no sampler runs"

    def __enter__(self) -> Self:
        try:
            self._start()
        except OSError as error:
            self._failed(f"the sampler could not be started ({error.strerror or error})")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process that samples, while there is one."""
        return self._process.pid if self._process else None

    def watch(self, arm: str, pid: int, scope: str) -> None:
        """Read the arm whose first process is `pid` (on the host) from now on; `scope` is one of usage.SCOPES."""
        if scope not in usage.SCOPES:
            raise ValueError(f"scope {scope!r} is unknown; choose {' or '.join(usage.SCOPES)}")
        if not arm.isprintable() or not arm:
            raise ValueError(f"{arm!r} is no name for an arm")
        self._say({"verb": "watch", "arm": arm, "pid": pid, "scope": scope})

    def unwatch(self, arm: str) -> None:
        """Read the arm a last time and no more; call this before it is asked to close, or its last counts are lost.

        Returns when it has been read, some 1 ms later.
        """
        self._say({"verb": "unwatch", "arm": arm})
        self._hear(_ANSWER_LIMIT_S)

    @contextlib.contextmanager
    def soaking(self) -> Iterator[None]:
        """Read faster while arms soak, since an energy is known as well as its counter's changes are.

        A soak is no part of a ratio: what this costs the arms is nobody's figure.
        """
        self._say({"verb": "rate", "hz": max(self._hz, SOAK_HZ)})
        try:
            yield
            time.sleep(BETWEEN_SOAKS_S)
        finally:
            self._say({"verb": "rate", "hz": self._hz})

    def foreign(self, gpu: str) -> tuple[list[dict[str, Any]] | None, str | None]:
        """Whose programs were on this GPU since the last flush and are no arm's; asks the driver once more.

        returns  pid, name, memory_bytes, first_ns and last_ns of each; or None, and why that is not known
        """
        self._say({"verb": "foreign"})
        told = self._hear(_ANSWER_LIMIT_S)
        if told is None:
            return None, self.fault or "the sampler has ended"
        if gpu not in told["programs"]:
            return None, told["nulls"].get(gpu, "the sampler reads no such GPU")
        return [{"pid": int(pid), **one} for pid, one in told["programs"][gpu].items()], None

    def flush_block(self, name: str) -> Path | None:
        """End a block: all that was read since the last flush, as telemetry/<name>.parquet.

        Only between measurements: the conversion costs some 10 ms here.

        returns  the file, on disk; None where the sampler is dead, `fault` then says why
        raises   ValueError: the name is no plain file name
        """
        if not name or Path(name).name != name or not name.isprintable() or name.startswith("."):
            raise ValueError(f"{name!r} is no plain file name")
        self._say({"verb": "flush", "name": name})
        answer = self._hear(_ANSWER_LIMIT_S)
        if answer is None:
            return None
        try:
            return _to_parquet(Path(answer["file"]), self._folder / f"{name}.parquet", answer["meta"])
        except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors and OSErrors
            self.fault = f"the readings of block {name} could not be kept ({getattr(error, 'strerror', None) or error})"
            return None
        finally:
            with contextlib.suppress(OSError):
                os.unlink(answer["file"])  # noqa: PTH108

    def close(self) -> None:
        """End the process; it throws away what was not flushed."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._log.close()

    def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in [*self._folder.glob(".*.csv"), *self._folder.glob(".*.part")]:
            left.unlink()  # by a sampler or a harness that was killed: this run is ours alone
        command = [sys.executable, "-m", "bench.telemetry.sampler", str(self._folder), str(self._hz)]
        if self._cpus is not None:
            command.append(",".join(map(str, sorted(self._cpus))))
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=child.environment(),
            start_new_session=True,
        )
        hello = self._hear(_START_LIMIT_S)
        if hello is not None:
            self.source, self.gpus = hello["source"], hello["gpus"]
            self.package_energy_null = hello["package_energy_null"]

    def _say(self, message: dict[str, Any]) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
        except OSError:
            self._died()

    def _hear(self, limit_s: float) -> dict[str, Any] | None:
        """The next line of the process; None, and a fault, where it died or kept silent."""
        if self._process is None or self._process.stdout is None:
            return None
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)
        end = time.monotonic() + limit_s
        while b"\n" not in self._heard:
            if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                self._failed(f"the sampler did not answer within {limit_s:g} s")
                return None
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                self._died()
                return None
            self._heard += data
        line, self._heard = self._heard.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    def _died(self) -> None:
        assert self._process is not None
        try:
            code: int | None = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = None
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        self._failed(f"the sampler ended with exit status {code}" + (f": {lines[-1]}" if lines else ""))

    def _failed(self, fault: str) -> None:
        self.fault = fault
        if self._process is not None:
            self._process.kill()
        self.close()


def meta(path: Path) -> dict[str, Any]:
    """How a block was sampled.

    raises   InputError: the file is damaged
    returns  source, hz, ticks, late (readings that fell out), seconds, sampler_cpu_s, gpu_read_s (spent in NVML),
             nvml_opened_ns (CLOCK_MONOTONIC), scopes by arm, gpus, foreign (Sampler.foreign's programs), and nulls:
             "<arm or gpu>.<column>", "<arm>", "<column>" or "gpus" to the reason why it is null
    """
    import pyarrow.parquet as pq  # here, because the sampler process imports this module too

    with _readable(path):
        found: dict[str, Any] = json.loads(pq.read_schema(path).metadata[_METADATA_KEY])
    return found


def readings(path: Path) -> pd.DataFrame:
    """All rows of a block in order of time, with COLUMNS; files of earlier versions have fewer. Raises InputError."""
    import pyarrow.parquet as pq

    with _readable(path):
        found: pd.DataFrame = pq.read_table(path).to_pandas()
    return found


def row_count(path: Path) -> int:
    """How many readings a block has. Raises InputError."""
    import pyarrow.parquet as pq

    with _readable(path):
        return int(pq.read_metadata(path).num_rows)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raises InputError where the file is cut short, or is none of bench's."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's own are ValueErrors and OSErrors
        why = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: holds no readings of bench ({type(error).__name__}: {why}); move it away") from None


def _to_parquet(csv_file: Path, parquet: Path, facts: dict[str, Any]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import csv

    types = {name: pa.string() if name in ("arm", "gpu") else pa.int64() for name in COLUMNS}
    table = csv.read_csv(
        csv_file,
        read_options=csv.ReadOptions(use_threads=False),
        convert_options=csv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )
    table = table.sort_by("t_ns")  # GPUs are put down at once, arms together a little later
    described = table.replace_schema_metadata({_METADATA_KEY: json.dumps({"schema": SCHEMA, **facts})})
    whole = pa.BufferOutputStream()
    pq.write_table(described, whole, compression="zstd")
    unfinished = parquet.with_name(f".{parquet.name}.part")
    try:
        with unfinished.open("wb", buffering=0) as file:
            view = memoryview(whole.getvalue())
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        unfinished.replace(parquet)
    finally:
        unfinished.unlink(missing_ok=True)
    csv_file.unlink()
    return parquet
