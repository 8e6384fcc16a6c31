"""The sampler process: reads every watched arm and every GPU at a fixed rate, and hears JSON lines on its stdin.

    python -m bench.telemetry.sampler FOLDER HZ [CPU,CPU,…]

    {"verb": "watch", "arm": …, "pid": …, "scope": "cgroup" | "process"}
    {"verb": "unwatch", "arm": …}    answered on stdout, once read: {}
    {"verb": "rate", "hz": …}        from now on
    {"verb": "foreign"}              answered on stdout: {"programs": {GPU: {number: {…}}}, "nulls": {GPU: why}}
    {"verb": "flush", "name": …}     answered on stdout: {"file": …, "meta": {…}}

It appends CSV, the cheapest thing that can be written, every two seconds, so that `bench top` can read along;
`bench.telemetry.Sampler` turns it into Parquet between the measurements. It ends when its stdin closes or its parent is
gone: nothing else has to stop it. Standard library alone, and pynvml where there is a GPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from typing import Any, TextIO

from bench.telemetry import COLUMNS, LIVE, nvml, usage
from bench.telemetry.cgroup import ControlGroup
from bench.telemetry.gpu_reading import Reading as GpuReading
from bench.telemetry.process_tree import ProcessTree
from bench.telemetry.programs import Programs, Share
from bench.telemetry.rapl import Packages

_NO_USAGE, _NO_GPU, _NO_SHARE = ("," * (len(kind._fields) - 1) for kind in (usage.Reading, GpuReading, Share))
_PROGRAMS_NS = 1_000_000_000  # asked for so often, and whenever an arm comes or goes: it costs more than a reading
_NOTHING_MORE = f"{_NO_GPU},{_NO_SHARE},"
_PUT_DOWN_NS = 2_000_000_000  # what was seen is parsed and written so often, all at once
_STDIN = 0
_IDLE_WAIT_S = 1.0
_PARENT_NS = 500_000_000


class Recorder:
    """The readings of one block after another, in a CSV file that each flush closes and gives its name."""

    def __init__(self, folder: str, hz: float) -> None:
        self._folder, self._hz = folder, hz
        self._arms: dict[str, usage.Usage] = {}
        self._scopes: dict[str, str] = {}
        self._nulls: dict[str, str] = {}
        self.gpus = nvml.Gpus()
        self._programs = Programs(self.gpus)
        self._packages = Packages()
        self._reads_more = bool(self.gpus.devices) or self._packages.readable
        self._watched: tuple[tuple[str, usage.Usage], ...] = ()
        self._begin()

    @property
    def energy_null(self) -> str | None:
        """Why the processors' energy cannot be read; None where it can."""
        return self._packages.null

    @property
    def idle(self) -> bool:
        """No arm is watched: there is nothing to sample."""
        return not self._arms

    def watch(self, arm: str, pid: int, scope: str) -> None:
        """Read this arm from now on, at once for the first time; one that is gone already is kept as a null."""
        self.unwatch(arm)
        self._scopes[arm] = scope
        try:
            self._arms[arm] = reader(pid, scope)
        except usage.Gone as gone:
            self._nulls[arm] = str(gone)
            return
        self._watched = tuple(self._arms.items())
        self._read_arm(arm, switches=True)
        self._read_programs()

    def unwatch(self, arm: str) -> None:
        """Read this arm a last time, while it still runs."""
        if arm in self._arms:
            self._read_programs()
            self._read_arm(arm, switches=True)
            self._forget(arm)

    def tick(self, now_ns: int) -> None:
        """Read everything once.

        It runs with cold caches, so that every step in it costs several times what it seems to: what can be done
        seldom, for all that was seen, is done then.
        """
        for arm, watched in self._watched:
            try:
                self._seen.append((time.monotonic_ns(), arm, watched, watched.glance()))
            except (usage.Gone, OSError, ValueError) as error:
                self._lose(arm, error)
        if self._reads_more:
            self._read_gpus()
            if (energy_uj := self._packages.read()) is not None:
                self._write(energy_uj=energy_uj)
        self._ticks += 1
        if now_ns >= self._put_down_due_ns:
            self._put_down()
            self._file.flush()

    def foreign(self) -> dict[str, Any]:
        """Who computed on the GPUs and was no arm's, since the last flush, and of which GPU that cannot be told."""
        self._read_programs()
        why = self._programs.null
        nulls = {
            one["uuid"]: why or self.gpus.nulls[f"{one['uuid']}.programs"]
            for one in self.gpus.devices
            if why or (one["uuid"], "programs") in self.gpus.errors
        }
        told = {one["uuid"]: self._programs.foreign.get(one["uuid"], {}) for one in self.gpus.devices}
        return {"programs": {gpu: seen for gpu, seen in told.items() if gpu not in nulls}, "nulls": nulls}

    def late(self, ticks: int) -> None:
        """So many readings fell out because this process did not get its core in time."""
        self._late += ticks

    def flush(self, name: str) -> dict[str, Any]:
        """End the block: its file and what must be known to read it."""
        for arm in list(self._arms):
            self._read_arm(arm, switches=True)
        self._read_programs()
        self._file.close()
        file = os.path.join(self._folder, f".{name}.csv")  # noqa: PTH118 - pathlib is half of this process's start
        os.replace(self._current, file)  # noqa: PTH105
        answer = {"file": file, "meta": self._meta()}
        self._scopes = {arm: self._scopes[arm] for arm in self._arms}
        self._programs.forget()
        self._begin()
        return answer

    def close(self) -> None:
        """Leave nothing behind: an unfinished block is thrown away whole."""
        for step in (self._file.close, lambda: os.unlink(self._current)):  # noqa: PTH108
            with contextlib.suppress(OSError):
                step()
        self._packages.close()
        self.gpus.close()

    def _begin(self) -> None:
        self._current = os.path.join(self._folder, LIVE.format(os.getpid()))  # noqa: PTH118
        self._file: TextIO = open(self._current, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - kept for a block
        self._file.write(",".join(COLUMNS) + "\n")
        self._ticks = self._late = self._gpu_ns = 0
        self._nulls = {}
        self._programs_due_ns = self._put_down_due_ns = 0
        self._seen: list[tuple[int, str, usage.Usage, Any]] = []
        self._began_ns, self._cpu_ns = time.monotonic_ns(), time.process_time_ns()

    def _meta(self) -> dict[str, Any]:
        cpu_ns = time.process_time_ns() - self._cpu_ns
        return {
            "source": self.gpus.source,
            "hz": self._hz,
            "ticks": self._ticks,
            "late": self._late,
            "seconds": (time.monotonic_ns() - self._began_ns) / 1e9,
            "sampler_cpu_s": cpu_ns / 1e9,
            "gpu_read_s": self._gpu_ns / 1e9,
            "nvml_opened_ns": self.gpus.opened_ns,
            "scopes": self._scopes,
            "gpus": self.gpus.devices,
            "foreign": self._programs.foreign,
            "nulls": {
                **self.gpus.nulls,
                **({"package_energy_uj": self._packages.null} if self._packages.null else {}),
                **({"programs": self._programs.null} if self._programs.null and self.gpus.devices else {}),
                **self._nulls,
                **{f"{arm}.{field}": why for arm, one in self._arms.items() for field, why in one.nulls.items()},
            },
        }

    def _read_gpus(self) -> None:
        if not self.gpus.devices:
            return
        began_ns = time.monotonic_ns()
        for uuid, reading in self.gpus.read():
            self._write(gpu=uuid, said=_csv(reading))
        self._gpu_ns += time.monotonic_ns() - began_ns
        if began_ns >= self._programs_due_ns:
            self._read_programs()

    def _read_programs(self) -> None:
        if not self.gpus.devices:
            return
        began_ns = time.monotonic_ns()
        self._programs_due_ns = began_ns + _PROGRAMS_NS
        for arm, uuid, share in self._programs.read(self._arms):
            self._write(arm=arm, gpu=uuid, share=_csv(share))
        self._gpu_ns += time.monotonic_ns() - began_ns

    def _read_arm(self, arm: str, *, switches: bool = False) -> None:
        """Read everything of an arm now, and put it down."""
        self._put_down()
        try:
            reading = self._arms[arm].read(switches=switches)
        except (usage.Gone, OSError, ValueError) as error:
            self._lose(arm, error)
            return
        self._write(arm=arm, used=_csv(reading))

    def _put_down(self) -> None:
        """Write what was glanced at: together, it takes a fraction of what it does one by one on a cold core."""
        seen, self._seen = self._seen, []
        rows = [
            f"{t_ns},{_quoted(arm)},,{_csv(watched.parse(glance))},{_NOTHING_MORE}\n"
            for t_ns, arm, watched, glance in seen
        ]
        self._file.write("".join(rows))
        self._put_down_due_ns = time.monotonic_ns() + _PUT_DOWN_NS

    def _lose(self, arm: str, error: Exception) -> None:
        """It has ended, or cannot be read any more."""
        if not isinstance(error, usage.Gone):
            self._nulls[arm] = f"reading it failed ({error})"
        self._forget(arm)

    def _forget(self, arm: str) -> None:
        self._put_down()
        watched = self._arms.pop(arm, None)
        self._watched = tuple(self._arms.items())
        if watched is None:
            return
        self._nulls.update({f"{arm}.{field}": why for field, why in watched.nulls.items()})
        watched.close()

    def _write(
        self,
        *,
        arm: str = "",
        gpu: str = "",
        used: str = _NO_USAGE,
        said: str = _NO_GPU,
        share: str = _NO_SHARE,
        energy_uj: int | str = "",
    ) -> None:
        """One row, in the order of COLUMNS."""
        self._file.write(f"{time.monotonic_ns()},{_quoted(arm)},{gpu},{used},{said},{share},{energy_uj}\n")


def _quoted(arm: str) -> str:
    return '"' + arm.replace('"', '""') + '"' if arm else ""


def _csv(reading: usage.Reading | GpuReading | Share) -> str:
    return ",".join(["" if value is None else str(value) for value in reading])


def reader(pid: int, scope: str) -> usage.Usage:
    """The reader of an arm whose first process is `pid`, as seen from here.

    raises   Gone: there is no such process;  ValueError: the scope is neither of SCOPES
    """
    if scope == "cgroup":
        return ControlGroup(pid)
    if scope == "process":
        return ProcessTree(pid)
    raise ValueError(f"scope {scope!r} is unknown; choose {' or '.join(usage.SCOPES)}")


class Commands:
    """The questions that arrive on stdin, a line each."""

    def __init__(self, recorder: Recorder, hz: float) -> None:
        self._recorder = recorder
        self._rest = b""
        self.period_ns = int(1e9 / hz)

    def obey(self) -> bool:
        """Do what has arrived; False once the harness has closed the pipe."""
        data = os.read(_STDIN, 65536)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._do(**json.loads(line))
        return bool(data)

    def _do(self, *, verb: str, **args: Any) -> None:
        match verb:
            case "watch":
                self._recorder.watch(**args)
            case "unwatch":
                self._recorder.unwatch(**args)
                answer({})
            case "rate":
                self.period_ns = int(1e9 / args["hz"])
            case "foreign":
                answer(self._recorder.foreign())
            case "flush":
                answer(self._recorder.flush(**args))


def answer(message: dict[str, Any]) -> None:
    """One JSON line on stdout."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def serve(recorder: Recorder, hz: float) -> None:
    """Tick on a fixed grid while any arm is watched, sleep while none is, until the harness is gone."""
    commands = Commands(recorder, hz)
    parent = os.getppid()
    due = parent_due = time.monotonic_ns()
    while True:
        idle, period_ns = recorder.idle, commands.period_ns
        wait_s = _IDLE_WAIT_S if idle else max(0, due - time.monotonic_ns()) / 1e9
        if select.select([_STDIN], [], [], wait_s)[0] and not commands.obey():
            return
        now = time.monotonic_ns()
        if now >= parent_due:
            if os.getppid() != parent:
                return
            parent_due = now + _PARENT_NS
        if idle or commands.period_ns != period_ns:
            due = now
        if now >= due and not recorder.idle:
            recorder.tick(now)
            missed = (time.monotonic_ns() - due) // commands.period_ns
            if missed:
                recorder.late(missed)
            due += (missed + 1) * commands.period_ns


def main(arguments: list[str]) -> int:
    """Sample until stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the harness, which then closes the pipe
    folder, hz, *cpus = arguments
    if cpus:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus[0].split(",")})
    try:
        _sample(folder, float(hz))
    except BrokenPipeError:
        return 0
    except OSError as error:  # of a reading they are nulls: here it is the file that is written
        sys.stderr.write(f"its readings cannot be written ({error.strerror or error})\n")
        return 3
    return 0


def _sample(folder: str, hz: float) -> None:
    recorder = Recorder(folder, hz)
    try:
        hello = {"source": recorder.gpus.source, "gpus": recorder.gpus.devices}
        answer({**hello, "package_energy_null": recorder.energy_null})
        serve(recorder, hz)
    finally:
        recorder.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
