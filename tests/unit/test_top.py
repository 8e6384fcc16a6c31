"""`bench top`: what it makes of the last rows that a sampler wrote; and options that are no numbers."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import store, telemetry
from bench.cli import telemetry as verbs
from bench.cli.main import cli
from bench.report import top


def live(path: Path, *rows: dict[str, object]) -> Path:
    """A sampler's file, cut as one that is still written may be: its heading, then whole lines."""
    lines = [",".join(telemetry.COLUMNS)]
    lines += [",".join(str(row.get(name, "")) for name in telemetry.COLUMNS) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_an_arms_memory_is_summed_over_gpus_and_the_parts_of_one_are_not_counted_twice(tmp_path: Path) -> None:
    now = time.monotonic_ns()
    own = {"t_ns": now, "arm": "torch", "cpu_ns": 1, "memory_bytes": 5}
    shares = [
        {"t_ns": now, "arm": "torch", "gpu": gpu, "arm_memory_bytes": held}
        for gpu, held in (("GPU-1", 8), ("GPU-2", 3), ("MIG-1", 1))
    ]
    (arm,) = top._arms(top._recent(live(tmp_path / "a.csv", own, *shares)), {})
    assert arm["gpu_memory_bytes"] == 11
    (arm,) = top._arms(top._recent(live(tmp_path / "b.csv", own, shares[2])), {})
    assert arm["gpu_memory_bytes"] == 1
    (arm,) = top._arms(top._recent(live(tmp_path / "c.csv", own)), {})
    assert arm["gpu_memory_bytes"] is None


def test_no_power_is_a_figure_and_not_a_missing_one(tmp_path: Path) -> None:
    row = {"t_ns": time.monotonic_ns(), "gpu": "GPU-1", "power_mw": 0, "gpu_util_percent": 0}
    (gpu,) = top._gpus(top._recent(live(tmp_path / "a.csv", row)))
    assert (gpu["power_w"], gpu["gpu_util_percent"], gpu["temperature_c"]) == (0, 0, None)


@pytest.mark.parametrize(
    ("placed", "usable", "expected"),
    [
        ({"arms": {"1": [3], "2": [2, 3]}, "control": [0, 1], "idle": []}, {0, 1, 2, 3}, {0, 1}),
        ({"arms": {"1": [3]}, "control": [0, 1], "idle": [2]}, {2, 3}, {2}),
        ({"arms": {"2": [0, 1]}, "control": [0, 1], "idle": []}, {0, 1}, {0, 1}),
        (None, {0, 1}, {0, 1}),
    ],
)
def test_whoever_looks_on_keeps_off_the_processors_that_the_arms_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, placed: Any, usable: set[int], expected: set[int]
) -> None:
    moves: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(usable))
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: moves.append(set(cpus)))
    monkeypatch.setattr(store, "read_run", lambda folder: {"cpus": placed})
    with verbs._elsewhere(tmp_path):
        assert moves == [expected]
    assert moves == [expected, usable]


@pytest.mark.parametrize(
    "arguments",
    [
        ["top", "--every", "nan"],
        ["telemetry", "record", "--to", "x.csv", "--hz", "nan"],
        ["telemetry", "record", "--to", "x.csv", "--hz", "1e-300"],
        ["telemetry", "record", "--to", "x.csv", "--seconds", "nan"],
        ["telemetry", "record", "--to", "x.csv", "--seconds", "inf"],
    ],
)
def test_what_is_no_number_is_refused(arguments: list[str]) -> None:
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2, done.exception
    assert "is no number" in done.output or "is not in the range" in done.output
