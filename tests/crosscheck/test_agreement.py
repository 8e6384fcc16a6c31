"""The cross-check's own verdicts, from literal samples; and its turns for real, on the stub in this Python."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agreement import STATISTICS, Row, rows
from driver import CLOCKS, steps, take_turns

EMPTY_S = 100e-9
TORCH = "torch.utils.benchmark"


def samples(*, step_s: float = 1e-3, noise: float = 0.01, rounds: int = 60, **factors: float) -> list[dict[str, Any]]:
    """Turns of the harness, of its controls and of one tool, each with its own factor on the time of a step."""
    rng = np.random.default_rng(3)
    shared = rng.normal(0, 0.1, rounds)  # what a round does to all its turns
    tools = {"harness": 1.0, "harness again": 1.0, "harness, collector off": 1.0, **factors}
    found = []
    for tool, factor in tools.items():
        for number in range(rounds):
            time_s = step_s * factor * float(np.exp(shared[number] + rng.normal(0, noise)))
            found.append({"round": number, "tool": tool, "empty": False, "steps": 100, "step_s": time_s})
            found.append({"round": number, "tool": tool, "empty": True, "steps": 10_000, "step_s": EMPTY_S})
    return found


def row(tool: str, found: list[dict[str, Any]]) -> Row:
    return next(one for one in rows("a step", found) if one.tool == tool)


def test_a_tool_that_gives_the_same_time_agrees_through_the_drift_of_the_machine() -> None:
    agreed = row("pyperf", samples(pyperf=1.0))
    assert agreed.passed
    assert agreed.reason == ""
    assert agreed.ci is not None
    assert agreed.ci[0] < 1 < agreed.ci[1]
    assert agreed.n == 60


def test_a_tool_that_is_three_percent_off_differs_and_nothing_measured_explains_it() -> None:
    differing = row("pyperf", samples(pyperf=1.03))
    assert not differing.passed
    assert differing.ratio == pytest.approx(1.03, abs=0.005)
    assert differing.verdict == "differs"
    assert "not explained" in differing.reason


def test_a_difference_of_exactly_the_bound_never_agrees() -> None:
    assert not row("pyperf", samples(pyperf=1.02)).passed


def test_the_collector_explains_a_tool_that_turns_it_off_and_no_other() -> None:
    found = samples(**{"harness, collector off": 0.95, TORCH: 0.95, "pyperf": 0.95})
    assert "which is explained" in row(TORCH, found).reason
    assert "garbage collector" in row(TORCH, found).reason
    assert "not explained" in row("pyperf", found).reason


def test_a_tools_own_loop_explains_what_it_adds_to_a_short_step() -> None:
    found = samples(step_s=2e-6, **{"pytest-benchmark": 1.05})
    for sample in found:
        if sample["tool"] == "pytest-benchmark" and sample["empty"]:
            sample["step_s"] += 100e-9
    slow = row("pytest-benchmark", found)
    assert not slow.passed
    assert slow.own_cost_ns == pytest.approx(100)
    assert "explained: its loop costs 100 ns a step more" in slow.reason


def test_a_noisy_machine_is_undecided_and_told_how_many_rounds_would_do() -> None:
    noisy = row("pyperf", samples(noise=0.2, rounds=12, pyperf=1.0))
    assert not noisy.passed
    assert noisy.verdict == "undecided"
    assert "rounds would decide" in noisy.reason


def test_one_round_is_no_interval() -> None:
    once = row("pyperf", samples(rounds=1, pyperf=1.0))
    assert not once.passed
    assert "at least 2" in once.reason


def test_every_tool_is_asked_where_its_framework_is() -> None:
    asked = {step.name: step.tools for step in steps()}
    assert len(asked) == len(steps()) == 5
    assert all(set(tools) <= {"harness", *STATISTICS} for tools in asked.values())
    assert {name for name, tools in asked.items() if TORCH not in tools} == {
        "linear_regression tensorflow train eager",
        "mnist_cnn tensorflow train eager",
    }


@pytest.mark.parametrize("clock", CLOCKS)
def test_turns_on_the_stub_give_every_tool_the_same_rounds(tmp_path: Path, clock: str) -> None:
    stub = steps()[0]
    missing = {TORCH} | ({"pyperf"} if importlib.util.find_spec("pyperf") is None else set())
    tools = [tool for tool in stub.tools if tool not in missing]
    plan = {"cell": stub.cell.to_json(), "framework": "stub", "seed": 1, "data": None, "cpus": []}
    limits = {"rounds": 3, "clock": clock, "turn_s": 0.002, "limit_s": 60, "warm_s": 0.1}
    found = take_turns(Path(sys.executable), tools=tmp_path, plan={**plan, **limits, "tools": tools})
    kinds = {(tool, empty) for tool in tools for empty in (False, True)}
    seen = [(sample["round"], sample["tool"], sample["empty"]) for sample in found]
    assert sorted(seen) == sorted((number, *kind) for number in range(3) for kind in kinds)
    assert seen != sorted(seen), "the order is drawn"
    real = [sample["step_s"] for sample in found if not sample["empty"]]
    assert max(real) < 20 * min(real), "they time the same step"
    assert max(sample["step_s"] for sample in found if sample["empty"]) < min(real)
