"""The row *real steps*: both loops do the same, what the harness adds is seen, and what cannot be had is said."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.errors import EnvironmentUnavailable, WorkerFailed
from bench.launch import local
from bench.measure.lockstep import deciding_sync
from bench.validate import real_steps, suite
from workloads.bare import against_bare, one_against_all
from workloads.contract import Cell, Named
from workloads.trial import Trial

CELL = Cell(workload=Named("x"), framework=Named("pytorch"))


class Program:
    """A step that takes a while; what was stepped and fetched is written down."""

    def __init__(self) -> None:
        self.stepped: list[int] = []
        self.fetched: list[int] = []

    def step(self, i: int) -> int:
        self.stepped.append(i)
        until = time.perf_counter() + 2e-4
        while time.perf_counter() < until:
            pass
        return i

    def fetch(self, value: int) -> Any:
        self.fetched.append(value)
        return np.zeros(1)


def trial_of(program: Any) -> Trial:
    modules: Any = SimpleNamespace()
    return Trial(CELL, "pytorch", 0, None, modules, modules, modules, program)


def series(harness_more: float, noise: float = 0.02) -> dict[str, list[int]]:
    generator = np.random.default_rng(0)
    bare, ours = (3e5 * np.exp(generator.normal(0, noise, 1600)) for _ in range(2))
    return {"bare_ns": bare.astype(int).tolist(), "harness_ns": (ours * (1 + harness_more)).astype(int).tolist()}


@pytest.mark.parametrize(("sync", "fetches"), [("step", 2 * 5 * 3), ("slice", 2 * 5)])
def test_both_loops_take_the_same_steps_one_after_another_and_fetch_alike(sync: str, fetches: int) -> None:
    program = Program()
    found = against_bare(trial_of(program), pairs=5, steps=3, sync=sync)
    assert {name: len(turns) for name, turns in found.items()} == {"harness_ns": 5, "bare_ns": 5}
    assert program.stepped == list(range(2 * 5 * 3))
    assert program.fetched == sorted(program.fetched)
    assert len(program.fetched) == fetches + 1  # the check after timing
    assert min(found["harness_ns"] + found["bare_ns"]) >= 3 * 2e5


def test_what_the_harness_adds_to_a_step_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Program):
        def fetch(self, value: int) -> Any:
            return np.zeros(1)

    kept = Trial._steps

    def waiting(self: Trial, count: int) -> list[int]:
        return [ns + 20_000 for ns in kept(self, count)]  # a tenth, as an op that waits for a device would be

    monkeypatch.setattr(Trial, "_steps", waiting)
    found = against_bare(trial_of(Slow()), pairs=400, steps=1, sync="step")
    row = real_steps.judged("x", found, "step")
    assert row.outcome != "passed"
    assert row.value is not None
    assert row.value < 0.98


def test_a_fiftieth_is_the_limit_and_noise_leaves_it_undecided() -> None:
    assert real_steps.judged("x", series(0.0), "step").outcome == "passed"
    assert real_steps.judged("x", series(0.05), "step").outcome == "failed"
    assert real_steps.judged("x", series(0.0, noise=2.0), "step").outcome == "undecided"
    assert "300 µs a step by a bare loop" in real_steps.judged("x", series(0.0), "step").detail


def test_every_mode_is_stepped_and_either_sync_is_covered() -> None:
    for full in (False, True):
        cells = real_steps.cells(full=full)
        assert len(set(cells)) == len(cells) == (10 if full else 7)
        assert {(one.framework.name, one.mode) for one in cells if one.phase == "infer"} == {
            ("tensorflow", "eager"), ("tensorflow", "graph"), ("tensorflow", "compiled"),
            ("pytorch", "eager"), ("pytorch", "compiled"),
        }  # fmt: skip
        assert {deciding_sync(one.phase) for one in cells} == {"step", "slice"}


def test_where_no_environment_can_be_had_the_part_is_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(**asked: Any) -> None:
        raise EnvironmentUnavailable("no index answers; set PIP_INDEX_URL")

    monkeypatch.setattr(local, "environment", none)
    folder = suite.begin(full=False, out=tmp_path, only=["real_steps"], seed=0)
    report = suite.carry_on(folder, lambda text: None)
    assert report.rows == ()
    assert report.skipped == {"real_steps": "no index answers; set PIP_INDEX_URL"}
    report.gate()


def test_a_worker_that_crashes_is_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise WorkerFailed("pytorch eager: crashed", kind="crashed")

    monkeypatch.setattr(real_steps, "_turns", crash)
    launcher: Any = None
    with pytest.raises(WorkerFailed, match="crashed"):
        real_steps.row(launcher, real_steps.cells(full=False)[0], frozenset({0}), 0)


def test_one_batch_again_and_again_is_stepped_as_often_as_the_pool_and_what_is_remembered_is_seen() -> None:
    program = Program()
    found = one_against_all(trial_of(program), pairs=3, steps=16)
    assert {name: len(turns) for name, turns in found.items()} == {"one_ns": 3, "all_ns": 3}
    assert len(program.stepped) == 2 * 3 * 16
    distinct = [len(set(program.stepped[start : start + 16])) for start in range(0, 96, 16)]
    assert sorted(distinct) == [1, 1, 1, 16, 16, 16]
    assert real_steps.pool_cells(full=True)[0].batch_size == real_steps.POOL_BATCH_SIZE
