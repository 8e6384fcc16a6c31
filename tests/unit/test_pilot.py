"""How long a pilot is, what becomes of it, and plans of earlier versions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import store
from bench.measure import pilot
from bench.measure.lockstep import companies
from bench.measure.pilot import Pilot, steps_left
from bench.planning.slices import Plan
from workloads import trial
from workloads.contract import Cell, Named

RESULTS = Path(__file__).resolve().parents[2] / "results"
CELL = Cell(workload=Named("linear_regression"), framework=Named("pytorch"))


def taken(step_ms: float, *, first_ms: tuple[float, ...] = ()) -> list[float]:
    """The pilot of an arm whose steps take `step_ms`, after `first_ms`."""
    series = [time * 1e6 for time in first_ms]
    while left := steps_left(series):
        series += [step_ms * 1e6] * min(left, pilot.STEPS_AT_ONCE)
    return series


@pytest.mark.parametrize(
    ("step_ms", "steps"),
    [(0.01, 2000), (0.9, 2000), (10, 200), (60, 33), (100, 30), (101, 30), (260, 30), (270, 15), (500, 15), (1000, 8)],
)
def test_a_pilot_takes_two_seconds_and_a_slow_one_eight_at_most(step_ms: float, steps: int) -> None:
    assert len(taken(step_ms)) == steps
    assert step_ms * steps <= (8000 if step_ms > 100 else 3000)


def test_a_pilot_of_any_steps_begins_with_five_and_takes_five_at_least() -> None:
    assert steps_left([]) == 5
    assert len(taken(30_000)) == 5


def test_the_last_steps_say_how_long_the_next_will_take_and_a_slow_start_shortens_the_pilot() -> None:
    assert len(taken(10, first_ms=(500, 100, 100, 100, 100))) == 5 + 110
    assert len(taken(10, first_ms=(5000, 10, 10, 10, 10))) == 30


def test_the_clock_ends_a_pilot_whose_mean_step_is_far_above_its_median() -> None:
    """A machine that others use: two of five steps wait for their turn."""
    series: list[float] = []
    while left := steps_left(series):
        series += ([50e6, 50e6, 0.5e6, 0.5e6, 0.5e6] * 400)[: min(left, pilot.STEPS_AT_ONCE)]
    assert sum(series) < 8e9


def opened(**changes: Any) -> dict[str, Any]:
    return {
        "start_s": 0.1,
        "data_s": 0.2,
        "import_s": 3.0,
        "build_s": 0.5,
        "first_step_s": 4.0,
        "cache_empty": True,
        "timer_ns": 150.0,
        "versions": {},
        **changes,
    }


def pilot_of(*, settled_ns: float = 2e6, slow_steps: int = 100, **changes: Any) -> Pilot:
    times = np.where(np.arange(600) < slow_steps, 1.3, 1.0) * settled_ns
    times *= np.exp(np.random.default_rng(0).normal(0, 0.01, 600))
    return Pilot(
        opened={"x": opened(**changes)},
        step_ns={"x": [round(time) for time in times]},
        control_ns={"x": [200_000] * 20},
    )


def test_the_plan_leaves_the_slow_start_out_of_warm_up_and_of_the_typical_step() -> None:
    plan = pilot_of().plan("slice")
    assert plan.warm_steps == {"x": 100}
    assert plan.warm_up["x"] == {"steps": 100, "found": True, "changes": (100,)}
    assert plan.step_ns["x"] == pytest.approx(2e6, rel=0.005)
    assert plan.slices.steps == {"x": 11}  # 20 ms for a control of 0.2 ms: ten steps, or eleven where they are quicker
    assert plan.slices.control_share["x"] <= 0.01
    assert plan.slices.timer_share["x"] <= 1e-4


def test_a_pilot_that_never_settled_is_warm_up_from_end_to_end_and_typical_in_its_later_half() -> None:
    short = pilot_of(slow_steps=550)
    short.step_ns["x"] = short.step_ns["x"][:20]
    plan = short.plan("slice")
    assert plan.warm_steps == {"x": 20}
    assert plan.warm_up["x"]["found"] is False
    assert plan.step_ns["x"] == pytest.approx(2.6e6, rel=0.02)


def test_cold_times_are_those_of_a_process_that_found_nothing_compiled() -> None:
    assert pilot_of().plan("step").cold == {"x": {"import_s": 3.0, "build_s": 0.5, "first_step_s": 4.0}}
    assert pilot_of(cache_empty=None).plan("step").cold["x"] is not None, "a stub compiles nothing"
    assert pilot_of(cache_empty=False).plan("step").cold == {"x": None}


def test_a_plan_comes_back_from_run_json_with_its_raw_series() -> None:
    plan = pilot_of().plan("slice")
    plain = json.loads(json.dumps(plan.to_json()))
    assert Plan.from_json(plain).to_json() == plain
    assert len(plain["pilot"]["x"]) == 600
    assert Plan.from_json(plain).slices == plan.slices


def test_plans_of_published_runs_are_still_read() -> None:
    kept = [plan for path in RESULTS.glob("*/run.json") for plan in store.read_run(path.parent)["plans"].values()]
    assert kept
    for plain in kept:
        plan = Plan.from_json(plain)
        assert plan.warm_steps == plain["warm_steps"]
        assert plan.slices.rounds == plain["rounds"]
        first = {key: plain[key] for key in ("steps", "settle_steps", "rounds", "warm_steps", "step_ns")}
        plan = Plan.from_json(store.run_of_today({"plans": {"c": first}})["plans"]["c"])  # as the first version kept it
        assert (plan.pilot, plan.cold, plan.slices.timer_share, plan.block_s) == ({}, {}, {}, None)


def test_lockstep_is_one_company_and_serial_companies_of_one() -> None:
    assert companies(("b", "a"), "lockstep") == (("b", "a"),)
    assert companies(("b", "a"), "serial") == (("b",), ("a",))


def test_a_cell_s_compile_cache_is_its_own_and_empty_until_something_is_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr(trial.os, "environ", environment)
    assert trial.own_compile_cache(CELL) is None, "the harness named no folder"
    environment["BENCH_COMPILE_CACHE"] = str(tmp_path)
    assert trial.own_compile_cache(CELL) is True
    own = environment["TORCHINDUCTOR_CACHE_DIR"]
    Path(own).mkdir()
    assert trial.own_compile_cache(CELL) is True, "an empty folder is no compiled code"
    (Path(own) / "kernel.so").touch()
    assert trial.own_compile_cache(CELL) is False
    assert trial.own_compile_cache(replace(CELL, batch_size=16)) is True
    assert environment["TORCHINDUCTOR_CACHE_DIR"] != own


def test_a_pair_of_readings_of_the_clock_costs_between_twenty_nanoseconds_and_five_microseconds() -> None:
    assert 20 < trial.timer_ns() < 5000


def test_a_block_measures_twice_as_long_as_the_longest_warm_up_where_the_budget_allows() -> None:
    """100 steps of 2 ms warm it up: 0.4 s of slices, which are there anyway; of ten times as long a warm-up, 4 s."""
    usual, long = pilot_of(), pilot_of(settled_ns=2e7)
    assert usual.plan("slice", room_s=60.0).slices == usual.plan("slice").slices
    plan = long.plan("slice", room_s=60.0)
    measured_s = plan.slices.rounds * plan.slices.steps["x"] * plan.step_ns["x"] * 1e-9
    assert measured_s == pytest.approx(2 * plan.warm_steps["x"] * plan.step_ns["x"] * 1e-9, rel=0.1)
    assert plan.slices.rounds > long.plan("slice").slices.rounds
    tight = long.plan("slice", room_s=12.0)  # 3.3 s until the first step, 2 s to warm up, and a tenth a round
    assert long.plan("slice").slices.rounds < tight.slices.rounds < plan.slices.rounds
    assert tight.block_s == pytest.approx(12.0, rel=0.05)
    assert long.plan("slice", room_s=1.0).slices == long.plan("slice").slices


def test_what_a_block_should_take_counts_no_compiling_that_the_first_process_did() -> None:
    cold, warm = (pilot_of(cache_empty=empty).plan("slice").block_s for empty in (True, False))
    assert cold is not None
    assert warm is not None
    assert warm - cold == pytest.approx(4.5)
    slices = pilot_of().plan("slice").slices
    assert cold == pytest.approx(3.3 + 0.2 + 1.25 * slices.rounds * (slices.steps["x"] + 2) * 2e-3, rel=0.05)
