"""The row *real steps* with the frameworks: a wait of the harness's own is seen, a missing compiler is said."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.launch import local
from bench.launch.local import LocalLauncher
from bench.matrix.need import Need
from bench.validate import real_steps

if TYPE_CHECKING:
    from bench.validate.row import Row

pytestmark = pytest.mark.framework

REPOSITORY = Path(__file__).resolve().parents[2]
TIMED = "            times[i] = clock() - before\n"
WAITING = "            __import__('tensorflow').test.experimental.sync_devices()\n"
CPUS = frozenset({max(os.sched_getaffinity(0))})


def row_of(framework: str, mode: str, cache: Path) -> Row:
    (cell,) = (
        one
        for one in real_steps.cells(full=False)
        if (one.framework.name, one.mode, one.phase) == (framework, mode, "infer")
    )
    launcher = LocalLauncher(cache=cache)
    launcher.provide([Need.of(cell)], print)
    return real_steps.row(launcher, cell, CPUS, 0)


def test_an_op_that_waits_for_the_device_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = row_of("tensorflow", "compiled", tmp_path / "cache")
    assert clean.outcome != "failed", clean
    root = tmp_path / "root"
    shutil.copytree(REPOSITORY / "workloads", root / "workloads", ignore=shutil.ignore_patterns("__pycache__"))
    trial = root / "workloads" / "trial.py"
    code = trial.read_text(encoding="utf-8")
    assert code.count(TIMED) == 1
    trial.write_text(code.replace(TIMED, WAITING + TIMED), encoding="utf-8")
    monkeypatch.setattr(local, "staged_worker_root", lambda: root)
    broken = row_of("tensorflow", "compiled", tmp_path / "cache")
    print(clean, broken, sep="\n")
    assert broken.outcome != "passed"
    assert broken.value is not None
    assert broken.value < 0.98


def test_a_mode_without_its_compiler_is_left_out_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    row = row_of("pytorch", "compiled", tmp_path / "cache")
    assert (row.outcome, row.n, row.value) == ("undecided", 0, None)
    assert "torch.compile needs a C++ compiler; apt-get install g++" in row.detail
