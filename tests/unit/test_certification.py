"""What comes before the first block, where one part of it fails: how much it takes with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import certification
from bench.comparison import Arm, Comparison
from bench.errors import WorkerFailed
from bench.lockstep import ArmFailed
from bench.parity import Certificate
from workloads.contract import Cell, Named
from workloads.linear_regression import spec

ARMS = ("tensorflow", "pytorch")
PASSED = Certificate(status="passed", reason="", max_rel_error=0.0)


@pytest.fixture
def task() -> certification.Task:
    """Of two arms; nothing in it starts anything."""
    named = Named.of("linear_regression", spec.parameters({}))
    arms = tuple(Arm(id=name, cell=Cell(workload=named, framework=Named(name), device="cpu")) for name in ARMS)
    comparison = Comparison(id="one", compare=("framework",), arms=arms, baseline="tensorflow")
    nothing: Any = None
    view: Any = type("Silent", (), {"stage": lambda *_: None, "say": lambda *_: None})()
    return certification.Task(
        bench=nothing, comparison=comparison, cache=Path(), control_cpus=frozenset(), view=view, measure=True
    )


def failing(arm: str, kind: str) -> Any:
    def ask(group: object, asked: str, verb: str, **_: object) -> dict[str, Any]:
        if asked == arm:
            raise ArmFailed(arm, WorkerFailed(f"{arm}: it diverged", kind=kind))
        return {"steps": 3, "mse": 0.5}

    return ask


def test_an_evaluation_that_fails_is_told_and_takes_no_certificate_with_it(
    task: certification.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certification, "ask", failing("tensorflow", "failed"))
    prologue = certification.Prologue(certificates={"pytorch": PASSED})
    certification._evaluate(task, None, ARMS, prologue)  # type: ignore[arg-type]
    assert prologue.evaluations == {
        "tensorflow": {"failed": "tensorflow: it diverged"},
        "pytorch": {"steps": 3, "mse": 0.5},
    }
    assert prologue.passed


def test_a_worker_that_dies_in_an_evaluation_is_a_failed_arm(
    task: certification.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certification, "ask", failing("pytorch", "crashed"))
    with pytest.raises(ArmFailed):
        certification._evaluate(task, None, ARMS, certification.Prologue())  # type: ignore[arg-type]


@pytest.mark.parametrize(("certified", "refused"), [(False, True), (True, False)])
def test_an_error_after_the_proof_is_a_failure_and_no_failed_proof(
    task: certification.Task, monkeypatch: pytest.MonkeyPatch, certified: bool, refused: bool
) -> None:
    def raising(task: object, group: object, company: object, traced: object, pilot: object, prologue: Any) -> None:
        if certified:
            prologue.certificates["pytorch"] = PASSED
        raise ArmFailed("pytorch", WorkerFailed("pytorch: not finite", kind="failed"))

    monkeypatch.setattr(certification, "_company", raising)
    monkeypatch.setattr(certification.lockstep, "companies", lambda *_: [ARMS])
    nothing: Any = type("Bench", (), {"schedule": "lockstep"})()
    prologue = certification._prologue(replace(task, bench=nothing))
    assert (prologue.refused is not None) is refused
    assert (prologue.failed is not None) is not refused
    assert [one.status for one in prologue.certificates.values()] == (["failed"] if refused else ["passed"])
