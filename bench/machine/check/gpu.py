"""What about the GPUs would spoil a measurement, through NVML; nothing where there is none, or a replayed trace.

Sources: NVML API Reference Guide, "Device Queries" and "Clocks Event Reasons"; NVIDIA, driver persistence;
CUPTI guide (nvidia-smi --lock-gpu-clocks=tdp,tdp for comparable values).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench.machine.check.findings import Finding
from bench.machine.describe import read_line
from bench.telemetry.nvml import SLOWED, Gpus, State
from bench.text import clean

UNSUPPORTED = "Not Supported"  # NVML_ERROR_NOT_SUPPORTED in words
WARM_C = 15  # so close to its own limit, a GPU reaches it in the first slices


def findings(root: Path, *, api: Any = None) -> Iterator[Finding]:
    """The findings of every GPU; `api` stands in for the module pynvml in tests."""
    gpus = Gpus(api)
    try:
        if "gpus" in gpus.nulls:
            why = "Nothing of the GPUs can be checked or recorded."
            cure = "nvidia-smi"
            yield Finding(name="gpu", level="unknown", found=gpus.nulls["gpus"], why=why, cure=cure)
        if gpus.source == "nvml":
            for device, state in gpus.states():
                nulls = {field: gpus.nulls.get(f"{device['uuid']}.{field}", "not told") for field in State._fields}
                yield from _of_one(root, device["index"], state, nulls)
    finally:
        gpus.close()


def _of_one(root: Path, gpu: int, state: State, nulls: dict[str, str]) -> Iterator[Finding]:
    yield _persistence(gpu, state, nulls)
    yield _clocks(gpu, state, nulls)
    yield _temperature(gpu, state, nulls)
    yield _programs(root, gpu, state, nulls)
    yield _mig(gpu, state, nulls)


def _persistence(gpu: int, state: State, nulls: dict[str, str]) -> Finding:
    say = partial(Finding, name=f"gpu{gpu}_persistence", why="Without it the driver starts anew with every process.")
    cure = f"sudo nvidia-smi -i {gpu} -pm 1"
    if state.persistence is None:
        return say(level="unknown", found=nulls["persistence"], cure=cure)
    return say(level="ok", found="on") if state.persistence else say(level="warn", found="off", cure=cure)


def _clocks(gpu: int, state: State, nulls: dict[str, str]) -> Finding:
    """NVML can lock clocks and cannot say whether they are locked: never ok."""
    say = partial(Finding, name=f"gpu{gpu}_clocks", why="A free clock rises and falls with heat and power.")
    if state.reasons is not None and state.reasons & SLOWED:
        cure = f"nvidia-smi -i {gpu} -q -d PERFORMANCE,TEMPERATURE,POWER"
        return say(level="fail", found="slowed down now, by heat or by its power supply", cure=cure)
    found = "NVML does not tell whether they are locked"
    if state.reasons is None:
        found += f", nor what holds them back ({nulls['reasons']})"
    return say(level="unknown", found=found, cure=f"sudo nvidia-smi -i {gpu} --lock-gpu-clocks=tdp,tdp")


def _temperature(gpu: int, state: State, nulls: dict[str, str]) -> Finding:
    say = partial(Finding, name=f"gpu{gpu}_temperature", why="Near its limit a GPU slows itself down.")
    cure = f"Let it cool: nvidia-smi -i {gpu} -q -d TEMPERATURE shows it."
    if state.temperature_c is None or state.slowdown_c is None:
        field = "temperature_c" if state.temperature_c is None else "slowdown_c"
        return say(level="unknown", found=f"{field}: {nulls[field]}", cure=cure)
    found = f"{state.temperature_c} °C, slows itself at {state.slowdown_c} °C"
    near = state.temperature_c > state.slowdown_c - WARM_C
    return say(level="warn", found=found, cure=cure) if near else say(level="ok", found=found)


def _programs(root: Path, gpu: int, state: State, nulls: dict[str, str]) -> Finding:
    say = partial(Finding, name=f"gpu{gpu}_programs", why="Two programs on one GPU take turns in the middle of a step.")
    cure = f"Stop them, or wait: nvidia-smi -i {gpu} lists them."
    if state.programs is None:
        return say(level="unknown", found=nulls["programs"], cure=cure)
    if not state.programs:
        return say(level="ok", found="none")
    names = [clean(read_line(root / f"proc/{pid}/comm") or "one of another container") for pid in state.programs[:3]]
    return say(level="fail", found=f"{len(state.programs)}: {', '.join(names)}", cure=cure)


def _mig(gpu: int, state: State, nulls: dict[str, str]) -> Finding:
    say = partial(Finding, name=f"gpu{gpu}_mig", why="A part of a GPU has a part of its speed, beside others' parts.")
    cure = f"sudo nvidia-smi -i {gpu} -mig 0"
    if state.mig:
        return say(level="note", found="on", cure=cure)
    if state.mig == 0 or nulls["mig"] == UNSUPPORTED:
        return say(level="ok", found="off" if state.mig == 0 else "not a GPU that can be partitioned")
    return say(level="unknown", found=nulls["mig"], cure=cure)
