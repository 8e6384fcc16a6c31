"""The sampler process: reads every watched arm and every GPU at a fixed rate, and hears JSON lines on its stdin.

    python -m bench.telemetry.sampler FOLDER HZ [CPU,CPU,…]

    {"verb": "watch", "arm": …, "pid": …, "scope": "cgroup" | "process"}
    {"verb": "unwatch", "arm": …}    answered on stdout, once read: {}
    {"verb": "flush", "name": …}     answered on stdout: {"file": …, "meta": {…}}

It appends CSV, the cheapest thing that can be written; `bench.telemetry.Sampler` turns it into Parquet between the
measurements. It ends when its stdin closes or its parent is gone: nothing else has to stop it. Standard library
alone, and pynvml where there is a GPU.
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

from bench.telemetry import COLUMNS, nvml, usage
from bench.telemetry.cgroup import ControlGroup
from bench.telemetry.process_tree import ProcessTree

_NO_ARM_READING = "," * (len(usage.Reading._fields) - 1)
_NO_GPU_READING = "," * (len(nvml.Reading._fields) - 1)
_STDIN = 0
_IDLE_WAIT_S = 1.0


class Recorder:
    """The readings of one block after another, in a CSV file that each flush closes and gives its name."""

    def __init__(self, folder: str, hz: float) -> None:
        self._folder, self._hz = folder, hz
        self._arms: dict[str, usage.Usage] = {}
        self._scopes: dict[str, str] = {}
        self._nulls: dict[str, str] = {}
        self.gpus = nvml.Gpus()
        self._begin()

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
        self._read_arm(arm, switches=True)

    def unwatch(self, arm: str) -> None:
        """Read this arm a last time, while it still runs."""
        if arm in self._arms:
            self._read_arm(arm, switches=True)
            self._forget(arm)

    def tick(self) -> None:
        """Read everything once."""
        for arm in list(self._arms):
            self._read_arm(arm)
        for uuid, reading in self.gpus.read():
            self._write("", uuid, _NO_ARM_READING, _csv(reading))
        self._ticks += 1

    def late(self, ticks: int) -> None:
        """So many readings fell out because this process did not get its core in time."""
        self._late += ticks

    def flush(self, name: str) -> dict[str, Any]:
        """End the block: its file and what must be known to read it."""
        for arm in list(self._arms):
            self._read_arm(arm, switches=True)
        self._file.close()
        file = os.path.join(self._folder, f".{name}.csv")  # noqa: PTH118 - pathlib is half of this process's start
        os.replace(self._current, file)  # noqa: PTH105
        answer = {"file": file, "meta": self._meta()}
        self._scopes = {arm: self._scopes[arm] for arm in self._arms}
        self._begin()
        return answer

    def close(self) -> None:
        """Leave nothing behind: an unfinished block is thrown away whole."""
        with contextlib.suppress(OSError):
            self._file.close()
            os.unlink(self._current)  # noqa: PTH108
        self.gpus.close()

    def _begin(self) -> None:
        self._current = os.path.join(self._folder, f".sampler-{os.getpid()}.csv")  # noqa: PTH118
        self._file: TextIO = open(self._current, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - kept for a block
        self._file.write(",".join(COLUMNS) + "\n")
        self._ticks = self._late = 0
        self._nulls = {}
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
            "scopes": self._scopes,
            "gpus": self.gpus.devices,
            "nulls": {
                **self.gpus.nulls,
                **self._nulls,
                **{f"{arm}.{field}": why for arm, one in self._arms.items() for field, why in one.nulls.items()},
            },
        }

    def _read_arm(self, arm: str, *, switches: bool = False) -> None:
        try:
            reading = self._arms[arm].read(switches=switches)
        except (usage.Gone, OSError, ValueError) as error:
            if not isinstance(error, usage.Gone):
                self._nulls[arm] = f"reading it failed ({error})"
            self._forget(arm)
            return
        self._write(arm, "", _csv(reading), _NO_GPU_READING)

    def _forget(self, arm: str) -> None:
        watched = self._arms.pop(arm, None)
        if watched is None:
            return
        self._nulls.update({f"{arm}.{field}": why for field, why in watched.nulls.items()})
        watched.close()

    def _write(self, arm: str, gpu: str, used: str, said: str) -> None:
        name = '"' + arm.replace('"', '""') + '"' if arm else ""
        self._file.write(f"{time.monotonic_ns()},{name},{gpu},{used},{said}\n")


def _csv(reading: usage.Reading | nvml.Reading) -> str:
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

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._rest = b""

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
            case "flush":
                answer(self._recorder.flush(**args))


def answer(message: dict[str, Any]) -> None:
    """One JSON line on stdout."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def serve(recorder: Recorder, period_ns: int) -> None:
    """Tick on a fixed grid while any arm is watched, sleep while none is, until the harness is gone."""
    commands = Commands(recorder)
    parent = os.getppid()
    due = time.monotonic_ns()
    while os.getppid() == parent:
        idle = recorder.idle
        wait_s = _IDLE_WAIT_S if idle else max(0, due - time.monotonic_ns()) / 1e9
        if select.select([_STDIN], [], [], wait_s)[0] and not commands.obey():
            return
        if idle:
            due = time.monotonic_ns()
        if not recorder.idle and time.monotonic_ns() >= due:
            recorder.tick()
            missed = (time.monotonic_ns() - due) // period_ns
            recorder.late(missed)
            due += (missed + 1) * period_ns


def main(arguments: list[str]) -> int:
    """Sample until stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the harness, which then closes the pipe
    folder, hz, *cpus = arguments
    if cpus:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus[0].split(",")})
    recorder = Recorder(folder, float(hz))
    answer({"source": recorder.gpus.source, "gpus": recorder.gpus.devices})
    try:
        serve(recorder, int(1e9 / float(hz)))
    except BrokenPipeError:
        return 0
    finally:
        recorder.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
