"""Where a comparison stands, and which of its arms are started, by what is on disk alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from synthetic_run import block, outcome

from bench.machine.cpus import Placement
from bench.matrix.comparison import Arm, Comparison
from bench.matrix.matrix import Budget
from bench.measure import run
from bench.measure.lockstep import ArmFailed
from bench.measure.prologue import Prologue
from bench.measure.standing import Stand, stand
from bench.planning.schedule import Planned
from bench.store import StoredRun
from workloads.contract import Cell, Named
from workloads.linear_regression import spec

ARMS = ("tensorflow", "tensorflow-graph", "pytorch")


@pytest.fixture
def comparison() -> Comparison:
    named = Named.of("linear_regression", spec.parameters({}))
    cells = [Cell(workload=named, framework=Named(arm.partition("-")[0]), device="cpu") for arm in ARMS]
    arms = tuple(Arm(id=name, cell=cell) for name, cell in zip(ARMS, cells, strict=True))
    return Comparison(id="one", compare=("framework", "mode"), arms=arms, baseline="tensorflow")


def certificate(arm: str, status: str, **more: Any) -> dict[str, Any]:
    return {"comparison": "one", "baseline": "tensorflow", "arm": arm, "status": status, "reason": "why not"} | more


def measured(number: int, *arms: str) -> dict[str, Any]:
    return block("one", number, {arm: outcome(arm) for arm in arms or ARMS})


def stored(certificates: list[dict[str, Any]], blocks: list[dict[str, Any]]) -> StoredRun:
    return StoredRun(folder=Path(), run={}, certificates=certificates, blocks=blocks)


def standing(comparison: Comparison, found: StoredRun, budget: Budget | None = None) -> Stand:
    """As the loop would see it, every block's log-ratios known: 0.1 by 0.001 a block."""
    ratios = {
        f"one.{one['block']:03d}.0": {arm: 0.1 + 0.001 * one["block"] for arm in one["arms"] if arm != "tensorflow"}
        for one in found.blocks
    }
    return stand(comparison, found, ratios, budget=budget or Budget(blocks=3), least=10)


def test_of_two_certificates_of_one_contrast_the_last_counts(comparison: Comparison) -> None:
    failed, passed = certificate("pytorch", "failed"), certificate("pytorch", "passed")
    other = certificate("tensorflow-graph", "passed")
    blocks = [measured(number) for number in range(2)]
    assert standing(comparison, stored([passed, other, failed], blocks)).out == {"pytorch": "parity failed"}
    assert standing(comparison, stored([failed, other, passed], blocks)).out == {}
    alone = comparison.only(["tensorflow", "pytorch"])
    assert standing(alone, stored([passed, failed], blocks)).finished == "parity failed"
    assert standing(alone, stored([failed, passed], blocks)).finished is None
    assert standing(alone, stored([failed, passed], blocks)).blocks == 2


def test_the_certificates_of_a_comparison_are_its_own_and_the_last_of_each() -> None:
    found = stored([certificate("a", "failed"), certificate("a", "passed"), certificate("b", "failed")], [])
    found.certificates.append({**certificate("a", "failed"), "comparison": "another"})
    assert {arm: one["status"] for arm, one in found.certificates_of("one").items()} == {"a": "passed", "b": "failed"}


@pytest.mark.parametrize("status", ["unsupported", "broken"])
def test_an_arm_that_was_left_out_does_not_hold_the_others_up(comparison: Comparison, status: str) -> None:
    certificates = [certificate("tensorflow-graph", "passed"), certificate("pytorch", status, by="pytorch")]
    blocks = [measured(number, "tensorflow", "tensorflow-graph") for number in range(3)]
    found = standing(comparison, stored(certificates, blocks))
    assert (found.blocks, found.finished, found.out) == (3, "all 3 blocks measured", {"pytorch": "why not"})
    assert standing(comparison, stored(certificates, blocks[:2])).finished is None


def test_a_comparison_whose_reference_could_not_answer_ends_with_its_reason(comparison: Comparison) -> None:
    certificates = [certificate(arm, "unsupported", by="reference") for arm in ARMS[1:]]
    assert standing(comparison, stored(certificates, [])).finished == "why not"


def test_an_arm_that_is_given_up_midway_does_not_hold_the_others_up(comparison: Comparison) -> None:
    certificates = [certificate(arm, "passed") for arm in ARMS[1:]]
    dead = {"pytorch": outcome("pytorch", status="failed", reason="exit 3")}
    blocks = [block("one", number, {arm: outcome(arm) for arm in ARMS} | dead) for number in range(3)]
    found = standing(comparison, stored(certificates, blocks))
    assert found.finished == "all 3 blocks measured"
    assert found.out == {"pytorch": "pytorch failed in 3 blocks in a row: exit 3"}


def test_a_prologue_that_failed_says_nothing_of_how_long_a_block_takes(comparison: Comparison) -> None:
    """It is kept as a block of no length, and nothing can be divided by that."""
    stopped = {arm: outcome(arm, status="stopped") for arm in ARMS}
    crashed = block("one", 0, stopped | {"pytorch": outcome("pytorch", status="failed", reason="oom")}, wall_s=0.0)
    said: list[str] = []
    whole: Any = SimpleNamespace(
        matrix=SimpleNamespace(comparisons=[comparison], budget=Budget(blocks=8, total_s=60.0)),
        header={"plans": {"one": {"block_s": 20.0}}},
        told=set(),
        view=SimpleNamespace(say=said.append),
    )
    found = stored([], [crashed])
    run._tell_outlook(whole, found, {"one": standing(comparison, found)}, left_s=50.0)
    (text,) = said
    assert text.startswith("the time will hold about 2 blocks a comparison")
    run._tell_outlook(whole, found, {"one": standing(comparison, found)}, left_s=40.0)
    assert len(said) == 1, "once before the first block"


def test_a_run_that_goes_on_elsewhere_says_so_and_a_given_place_is_kept() -> None:
    """The validation's load is pinned to its arms' processor: a resumed part must not flee it."""
    place = Placement(arms={1: frozenset({3})}, control=frozenset({0}), idle=frozenset(), topology="known", why="given")
    written: list[dict[str, Any]] = []
    writer: Any = SimpleNamespace(write_run=written.append)
    header: dict[str, Any] = {"cpus": {**place.to_json(), "arms": {"1": [2]}}, "notes": []}
    run._note_place(writer, header, place)
    assert written == [header]
    assert header["cpus"]["arms"] == {"1": [3]}
    (note,) = header["notes"]
    assert note.endswith("arms moved from CPU 2 to CPU 3")


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arms of every prologue that is begun; none comes to anything."""
    seen: list[list[str]] = []

    def begin(bench: object, comparison: Comparison, **_: object) -> Prologue:
        seen.append([arm.id for arm in comparison.arms])
        return Prologue()

    monkeypatch.setattr(run.certify, "begin", begin)
    return seen


def test_a_run_killed_between_certificate_and_plan_certifies_again_without_those_that_were_left_out(
    comparison: Comparison, begun: list[list[str]]
) -> None:
    certificates = [certificate("tensorflow-graph", "passed"), certificate("pytorch", "unsupported", by="pytorch")]
    out = standing(comparison, stored(certificates, [])).out
    whole: Any = SimpleNamespace(
        header={"plans": {}, "id": "x", "recertify": True},
        bench=SimpleNamespace(sampler=None),
        control_cpus=frozenset(),
        matrix=SimpleNamespace(comparisons=[comparison], budget=Budget(blocks=3)),
        view=None,
        store=None,
    )
    left = comparison.only(arm for arm in ARMS if arm not in out)
    run._certify(whole, left, Planned(comparison="one", block=0))
    assert begun == [["tensorflow", "tensorflow-graph"]]


def test_an_arm_that_died_before_three_blocks_is_not_started_a_fourth_time_and_the_others_are(
    comparison: Comparison,
) -> None:
    dead = {"pytorch": outcome("pytorch", status="failed", reason="exit 3")}
    stopped = {arm: outcome(arm, status="stopped") for arm in ARMS}
    blocks = [block("one", number, stopped | dead) for number in range(3)]
    assert standing(comparison, stored([], blocks[:2])).out == {}
    found = standing(comparison, stored([], blocks))
    assert list(found.out) == ["pytorch"]
    assert found.finished is None


def test_the_failure_of_an_arm_before_the_first_block_is_a_block_in_which_the_others_were_stopped(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.errors import WorkerFailed

    failed = ArmFailed("reference", WorkerFailed("reference: was killed", kind="oom", log="its last words"))
    monkeypatch.setattr(run.certify, "begin", lambda *_, **__: Prologue(failed=failed))
    kept: list[dict[str, Any]] = []
    whole: Any = SimpleNamespace(
        header={"plans": {}, "id": "x", "recertify": True},
        bench=SimpleNamespace(sampler=None),
        control_cpus=frozenset(),
        matrix=SimpleNamespace(comparisons=[comparison], budget=Budget(blocks=3)),
        view=SimpleNamespace(failed=lambda *_: None, kept=lambda _: None),
        store=SimpleNamespace(append_block=lambda record, _: kept.append(record), write_log=lambda *_: "logs/x"),
    )
    run._certify(whole, comparison, Planned(comparison="one", block=0))
    (record,) = kept
    assert {arm: one["status"] for arm, one in record["arms"].items()} == {
        "reference": "failed", **dict.fromkeys(ARMS, "stopped")
    }  # fmt: skip
    assert standing(comparison, stored([], kept * 2)).finished is None
    assert "reference failed in 3 blocks in a row" in (standing(comparison, stored([], kept * 3)).finished or "")
