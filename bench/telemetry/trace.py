"""A recording of this machine's GPUs as CSV, which can be looked at, kept, and replayed in place of a GPU.

The first line is a comment with what was recorded: `# {"schema": "bench.trace/1", …}`. Then one row a reading of one
GPU: time_s since the beginning, gpu (UUID), memory_total_bytes, architecture and the fields of `gpu_reading.Reading`.
An empty field was not read; "!N" is NVML's error N, which a replay answers too.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from bench.errors import InputError
from bench.telemetry import nvml
from bench.telemetry.gpu_reading import Reading

SCHEMA = "bench.trace/1"
COLUMNS = ("time_s", "gpu", "memory_total_bytes", "architecture", *Reading._fields)


def record(path: Path, *, hz: float, seconds: float | None, say: Callable[[str], None]) -> int:
    """Record until the time is up or an interrupt, which keeps what there is; returns the number of readings.

    raises  InputError: no GPU answers, or the file cannot be written
    """
    gpus = nvml.Gpus()
    try:
        if not gpus.devices:
            why = gpus.nulls.get("gpus") or next(iter(gpus.nulls.values()), f"there is no {nvml.LIBRARY}")
            raise InputError(f"nothing to record: no NVIDIA GPU answers on this machine ({why})")
        try:
            with path.open("w", encoding="utf-8", newline="") as file:
                say(f"recording {len(gpus.devices)} GPU(s), source {gpus.source}; Ctrl-C ends it")
                return _record(file, gpus, hz, seconds)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); choose another --to") from None
    finally:
        gpus.close()


def _record(file: TextIO, gpus: nvml.Gpus, hz: float, seconds: float | None) -> int:
    head = {"schema": SCHEMA, "source": gpus.source, "hz": hz, "gpus": gpus.devices}
    file.write(f"# {json.dumps(head)}\n")
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    parts = [{**part, "architecture": one["architecture"]} for one in gpus.devices for part in one["instances"]]
    known = {one["uuid"]: one for one in [*gpus.devices, *parts]}
    began, period_ns, count = time.monotonic_ns(), int(1e9 / hz), 0
    due = began
    try:
        while seconds is None or due - began <= seconds * 1e9:
            time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
            now_s = (time.monotonic_ns() - began) / 1e9
            for uuid, reading in gpus.read():
                own = {"memory_total_bytes": known[uuid]["memory_bytes"], "architecture": known[uuid]["architecture"]}
                writer.writerow({"time_s": f"{now_s:.6f}", "gpu": uuid, **own, **_told(gpus, uuid, reading)})
                count += 1
            due = max(due + period_ns, time.monotonic_ns())
    except KeyboardInterrupt:
        return count
    return count


def _told(gpus: nvml.Gpus, uuid: str, reading: Reading) -> dict[str, int | str]:
    """Every field, or the error that was answered in its place."""
    return {
        name: f"!{gpus.errors[uuid, name]}" if value is None else value
        for name, value in reading._asdict().items()
        if value is not None or (uuid, name) in gpus.errors
    }
