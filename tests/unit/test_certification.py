"""What comes before the first block, where one part of it fails: how much it takes with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from bench.errors import WorkerFailed
from bench.matrix.comparison import Arm, Comparison
from bench.measure import certify
from bench.measure.lockstep import Bench
from bench.measure.parity import Certificate
from bench.measure.prologue import Task
from bench.records import REFERENCE
from workloads.contract import Cell, Named, pack
from workloads.linear_regression import spec

if TYPE_CHECKING:
    from bench.measure.prologue import Prologue

ARMS = ("tensorflow", "pytorch")
THREE = ("tensorflow", "tensorflow-graph", "pytorch")
PASSED = Certificate(status="passed", reason="", max_rel_error=0.0)
OPENED = {"open_s": 0.1, "import_s": 0.03, "data_s": 0.0, "build_s": 0.01, "first_step_s": 0.01, "pid": 1, "gpu": None,
          "timer_ns": 50.0, "cache_empty": True}  # fmt: skip
SHARED: dict[str, Any] = {"parameter_count": 1, "inputs_sha256": "0"}
TRACE = {**SHARED, "losses": [1.0] * 50, "gradients": {"w": pack(np.ones(1))},
         "weights": {"w": pack(np.ones(1))}}  # fmt: skip
LED = {"weights": [1e-16] * 50, "losses": [1e-16] * 50, "gradients": 1e-16}  # by an ulp in every weight
ANSWERS = {
    "open": OPENED,
    "horizon": TRACE | {"sensitivity": LED},
    "parity": TRACE,
    "closing": {"steps": 3, "idle": [], "still": [], "error": 0.0, "place": None},
    "warm": {"step_ns": [1_000_000] * 5, "compilations": 0},
    "evaluate": {"steps": 3, "mse": 0.5},
    "measure": {"start_ns": 0, "end_ns": 1_000_000},
}

Failing = Mapping[tuple[str, str], str]  # arm and verb to the kind of its failure


def words(arm: str, verb: str) -> str:
    return f"{arm}: it could not {verb}"


class Workers:
    """A group whose workers answer at once and alike, but for those that fail."""

    failing: ClassVar[Failing] = {}
    started: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self._names: list[str] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._names.clear()

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(self._names)

    def add(self, name: str, channel: object) -> None:
        self._names.append(name)
        self.started.append(name)

    def drop(self, name: str) -> None:
        self._names.remove(name)

    def settle(self) -> None:
        """Nobody needs a heartbeat."""

    def ask(self, name: str, verb: str, **_: Any) -> dict[str, Any]:
        (answer,) = self.ask_all({name: {}}, verb, limit_s=1.0).values()
        if isinstance(answer, WorkerFailed):
            raise answer
        return answer

    def ask_all(self, questions: Mapping[str, Any], verb: str, *, limit_s: float) -> dict[str, Any]:
        assert set(questions) <= set(self._names), "one that is gone cannot be asked"
        return {name: self._answer(name, verb) for name in questions}

    def _answer(self, name: str, verb: str) -> Any:
        kind = self.failing.get((name, verb))
        return WorkerFailed(words(name, verb), kind=kind, log=f"log of {name}") if kind else dict(ANSWERS[verb])


def task_of(
    names: tuple[str, ...], *, kind: str = "lockstep", measure: bool = True, phase: str = "train", folds: int = 0,
    **more: Any,
) -> Task:  # fmt: skip
    """A comparison of these arms, the first one its baseline."""
    optimizer = "gradient_descent" if folds else "sgd"
    named = Named.of("linear_regression", spec.parameters({"optimizer": optimizer}) | {"folds": folds})
    cells = [Cell(workload=named, framework=Named(name.partition("-")[0]), phase=phase, device="cpu") for name in names]
    arms = tuple(Arm(id=name, cell=cell) for name, cell in zip(names, cells, strict=True))
    comparison = Comparison(id="one", compare=("framework",), arms=arms, baseline=names[0])
    channel = SimpleNamespace(gpu=None, image=None, pid=1, scope="process")
    launcher = SimpleNamespace(start=lambda **_: channel, data_path=lambda *_: None)
    stand_in: Any = launcher
    bench = Bench(launcher=stand_in, sampler=None, arm_cpus={1: frozenset({0})}, seed=0, data=None, schedule=kind)
    view: Any = SimpleNamespace(stage=lambda *_: None, say=lambda *_: None)
    return Task(
        bench=bench, comparison=comparison, cache=Path(), control_cpus=frozenset(), view=view, measure=measure, **more
    )


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A prologue in which these workers fail."""
    monkeypatch.setattr(certify, "Group", Workers)
    monkeypatch.setattr("bench.measure.tracing.start_reference", lambda **_: None)
    monkeypatch.setattr("bench.measure.pilot.time.sleep", lambda _: None)

    def begin(
        failing: Failing, names: tuple[str, ...] = THREE, *, kind: str = "lockstep", measure: bool = True, **more: Any
    ) -> Prologue:
        monkeypatch.setattr(Workers, "failing", failing)
        monkeypatch.setattr(Workers, "started", [])
        return certify._prologue(task_of(names, kind=kind, measure=measure, **more))

    return begin


def statuses(prologue: Prologue) -> dict[str, str]:
    return {arm: certificate.status for arm, certificate in prologue.certificates.items()}


KINDS = pytest.mark.parametrize("kind", ["lockstep", "serial"])


@KINDS
def test_where_nothing_fails_every_contrast_is_certified_and_planned_for(begun: Any, kind: str) -> None:
    found = begun({}, kind=kind)
    assert statuses(found) == {"tensorflow-graph": "passed", "pytorch": "passed"}
    assert set(found.plan.step_ns) == set(THREE)


@KINDS
@pytest.mark.parametrize("verb", ["open", "warm", "parity", "closing", "measure"])
@pytest.mark.parametrize(("failure", "status"), [("unsupported", "unsupported"), ("failed", "broken")])
def test_an_arm_that_cannot_or_raises_is_left_out_and_the_others_are_certified(
    begun: Any, kind: str, verb: str, failure: str, status: str
) -> None:
    found = begun({("pytorch", verb): failure}, kind=kind)
    assert statuses(found) == {"tensorflow-graph": "passed", "pytorch": status}
    certificate = found.certificates["pytorch"]
    assert (certificate.by, certificate.reason) == ("pytorch", words("pytorch", verb))
    assert found.left_out["pytorch"].log == "log of pytorch"
    assert set(found.plan.step_ns) == set(found.plan.slices.steps) == {"tensorflow", "tensorflow-graph"}
    assert found.failed is None


def test_what_was_proved_before_an_arm_raised_stays_in_its_record(begun: Any) -> None:
    certificate = begun({("pytorch", "measure"): "failed"}).certificates["pytorch"]
    assert certificate.status == "broken"
    assert certificate.checks
    assert certificate.max_rel_error == 0.0


@KINDS
@pytest.mark.parametrize("names", [ARMS, THREE])
def test_an_arm_that_does_other_work_and_then_raises_has_failed_its_proof(
    begun: Any, monkeypatch: pytest.MonkeyPatch, kind: str, names: tuple[str, ...]
) -> None:
    """As one whose loss is a sum: it runs away in the steps that follow."""
    answer = Workers._answer
    other = TRACE | {"losses": [2.0] * 50}
    monkeypatch.setattr(
        Workers,
        "_answer",
        lambda self, name, verb: other if (name, verb) == ("pytorch", "parity") else answer(self, name, verb),
    )
    certificate = begun({("pytorch", "closing"): "failed"}, names, kind=kind).certificates["pytorch"]
    assert certificate.status == "failed"
    assert certificate.reason.startswith("pytorch: float64 losses")


@KINDS
@pytest.mark.parametrize("verb", ["open", "warm", "parity", "closing", "measure"])
@pytest.mark.parametrize(("failure", "status"), [("unsupported", "unsupported"), ("failed", "broken")])
def test_a_baseline_that_cannot_or_raises_gives_every_contrast_its_reason(
    begun: Any, kind: str, verb: str, failure: str, status: str
) -> None:
    found = begun({("tensorflow", verb): failure}, kind=kind)
    assert statuses(found) == {"tensorflow-graph": status, "pytorch": status}
    assert {one.by for one in found.certificates.values()} == {"tensorflow"}
    assert {one.reason for one in found.certificates.values()} == {words("tensorflow", verb)}
    assert (found.plan, found.failed) == (None, None)


@KINDS
@pytest.mark.parametrize("verb", ["open", "horizon"])
@pytest.mark.parametrize(("failure", "status"), [("unsupported", "unsupported"), ("failed", "broken")])
def test_a_reference_that_cannot_or_raises_gives_every_contrast_its_reason_and_is_no_failed_parity(
    begun: Any, kind: str, verb: str, failure: str, status: str
) -> None:
    found = begun({(REFERENCE, verb): failure}, kind=kind)
    assert statuses(found) == {"tensorflow-graph": status, "pytorch": status}
    assert {(one.by, one.reason) for one in found.certificates.values()} == {(REFERENCE, words(REFERENCE, verb))}
    assert found.plan is None


def test_without_a_second_arm_nothing_more_is_asked(begun: Any) -> None:
    found = begun({("pytorch", "open"): "unsupported"}, ARMS)
    assert statuses(found) == {"pytorch": "unsupported"}
    assert found.plan is None
    assert Workers.started == ["tensorflow", "pytorch"], "no reference"


@KINDS
@pytest.mark.parametrize("verb", ["open", "warm", "parity", "closing", "evaluate", "measure"])
@pytest.mark.parametrize("failure", ["crashed", "hung", "oom", "garbage", "no_gpu"])
@pytest.mark.parametrize("arm", ["tensorflow", "pytorch"])
def test_an_arm_that_dies_is_not_left_out_and_may_be_tried_again(
    begun: Any, kind: str, verb: str, failure: str, arm: str
) -> None:
    found = begun({(arm, verb): failure}, kind=kind)
    assert (found.failed.arm, found.failed.failure.kind) == (arm, failure)
    assert found.plan is None
    assert not found.left_out


def test_in_a_proof_that_is_not_repeated_a_crash_takes_its_own_record_alone(begun: Any) -> None:
    found = begun({("pytorch", "open"): "crashed"}, measure=False)
    assert statuses(found) == {"tensorflow-graph": "passed", "pytorch": "broken"}
    found = begun({("pytorch", "parity"): "failed"}, measure=False)
    assert statuses(found) == {"tensorflow-graph": "passed", "pytorch": "broken"}


@pytest.mark.parametrize("failure", ["failed", "unsupported"])
def test_an_evaluation_that_fails_is_told_and_takes_no_certificate_with_it(begun: Any, failure: str) -> None:
    found = begun({("tensorflow", "evaluate"): failure}, ARMS)
    assert found.evaluations == {
        "tensorflow": {"failed": words("tensorflow", "evaluate")},
        "pytorch": {"steps": 3, "mse": 0.5},
    }
    assert statuses(found) == {"pytorch": "passed"}
    assert found.plan


def test_memory_that_runs_out_is_advised_of_serial_in_lockstep_alone(begun: Any) -> None:
    failing = {("pytorch", "warm"): "oom"}
    assert "schedule: serial" in str(begun(failing).failed.failure)
    assert "schedule: serial" not in str(begun(failing, kind="serial").failed.failure)


def test_a_failed_proof_is_no_reason_to_call_the_arm_broken(begun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(PASSED, status="failed", reason="pytorch: float64 losses")
    monkeypatch.setattr(certify.parity, "certify", lambda *, arm, **_: wrong if arm.arm == "pytorch" else PASSED)
    found = begun({("pytorch", "measure"): "failed"})
    assert replace(found.certificates["pytorch"], made_at=None) == wrong
    assert set(found.plan.step_ns) == {"tensorflow", "tensorflow-graph"}, "no time is spent on it"


@pytest.mark.parametrize("kind", ["lockstep", "serial"])
@pytest.mark.parametrize(
    ("seconds", "folds", "steps", "cut"),
    [(math.inf, 0, 1000, False), (0.3, 0, 100, True), (0.3, 4, 20, True), (0.3, 1, 50, True)],
)
def test_evaluations_are_cut_for_all_arms_alike_where_the_time_is_short(
    begun: Any, monkeypatch: pytest.MonkeyPatch, kind: str, seconds: float, folds: int, steps: int, cut: bool
) -> None:
    """Three arms with steps of a millisecond; each fold is another training."""
    asked: list[int] = []
    answer = Workers.ask

    def ask(self: Workers, name: str, verb: str, **more: Any) -> dict[str, Any]:
        if verb == "evaluate":
            asked.append(more["steps"])
            return {"steps": more["steps"]}
        return answer(self, name, verb, **more)

    monkeypatch.setattr(Workers, "ask", ask)
    found = begun({}, kind=kind, evaluate_s=seconds, folds=folds)
    assert asked == [steps] * 3
    assert {name: "cut_from" in one for name, one in found.evaluations.items()} == dict.fromkeys(THREE, cut)


def test_what_is_kept_is_neither_proved_nor_evaluated_again_unless_an_evaluation_was_cut(begun: Any) -> None:
    def known(**evaluation: Any) -> dict[str, Any]:
        return {
            arm: PASSED.to_json() | {"evaluations": dict.fromkeys(("tensorflow", arm), evaluation)} for arm in THREE[1:]
        }

    found = begun({}, known=known(steps=1000))
    assert statuses(found) == {"tensorflow-graph": "passed", "pytorch": "passed"}
    assert all(one.kept for one in found.certificates.values())
    assert Workers.started == list(THREE), "no reference"
    assert {name: one["steps"] for name, one in found.evaluations.items()} == dict.fromkeys(THREE, 1000)
    again = begun({}, known=known(steps=20, cut_from=1000))
    assert {name: one["steps"] for name, one in again.evaluations.items()} == dict.fromkeys(THREE, 3), "of all alike"


@pytest.mark.parametrize("kind", ["lockstep", "serial"])
@pytest.mark.parametrize(
    ("kept", "anew"),
    [
        (dict.fromkeys(THREE, 90), False),  # there is time for 100
        (dict.fromkeys(THREE, 120), False),
        (dict.fromkeys(THREE, 70), True),
        ({**dict.fromkeys(THREE, 90), "pytorch": 95}, True),
    ],
)
def test_evaluations_that_were_cut_serve_again_where_there_is_time_for_hardly_more(
    begun: Any, kind: str, kept: dict[str, int], anew: bool
) -> None:
    def cut(arm: str) -> dict[str, Any]:
        return {"steps": kept[arm], "cut_from": 1000}

    known = {
        arm: PASSED.to_json() | {"evaluations": {name: cut(name) for name in ("tensorflow", arm)}} for arm in THREE[1:]
    }
    found = begun({}, kind=kind, known=known, evaluate_s=0.3)
    wanted = dict.fromkeys(THREE, 3) if anew else kept  # what the stand-in answers
    assert {name: one["steps"] for name, one in found.evaluations.items()} == wanted


def test_of_an_inference_the_arms_are_asked_for_as_many_batches_as_the_reference_gave(
    begun: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of two seconds: the reference gives ten."""
    outputs = {f"batch {i}": pack(np.ones(1)) for i in range(10)}
    monkeypatch.setitem(ANSWERS, "horizon", {**SHARED, "outputs": outputs})
    asked: list[int] = []
    answer = Workers.ask_all

    def ask_all(self: Workers, questions: Mapping[str, Any], verb: str, *, limit_s: float) -> dict[str, Any]:
        if verb != "parity":
            return answer(self, questions, verb, limit_s=limit_s)
        asked.extend(question["steps"] for question in questions.values())
        count = asked[-1]
        return {name: {**SHARED, "outputs": dict(list(outputs.items())[:count])} for name in questions}

    monkeypatch.setattr(Workers, "ask_all", ask_all)
    found = begun({}, ARMS, phase="infer")
    assert statuses(found) == {"pytorch": "passed"}
    assert asked == [10] * 4
