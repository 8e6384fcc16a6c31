"""What a worker answers for a certificate, by the NumPy reference: horizon, unfetched steps, closing, large arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mnist_files import write_digits

from bench.matrix.model import spec_of
from bench.measure import parity
from bench.measure.traces import Trace
from workloads import tracing
from workloads.contract import Cell, Named, finite
from workloads.distance import farthest
from workloads.training import Rule
from workloads.training.reference import optimizer
from workloads.trial import Trial

SMALL = {
    "linear_regression": {"n": 64, "d": 5},
    "logistic_regression": {"n": 64, "d": 5, "optimizer": "gradient_descent"},
    "mnist_cnn": {},
    "transformer_lm": {"length": 5, "layers": 1, "heads": 3, "width": 9},
    "lstm_text": {"length": 5, "width": 4},
}
Open = Callable[..., Trial]
Change = Callable[[Trial], None]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """A trial of the reference."""

    def make(workload: str, *, phase: str = "train", **given: Any) -> Trial:
        named = Named.of(workload, spec_of(workload).parameters(SMALL.get(workload, {}) | given))
        cell = Cell(workload=named, framework=Named("tensorflow"), phase=phase, batch_size=8, device="cpu")
        trial, _ = Trial.open(cell=cell.to_json(), framework="reference", seed=0, data=str(write_digits(tmp_path)))
        return trial

    return make


def horizon(trial: Trial, *, steps: int = 12, rate: float = 1.0, limit: float = 1e-12) -> Trace:
    return Trace.of(tracing.horizon(trial, steps=steps, rate=rate, limit=limit, most_s=60.0))


# The horizon


@pytest.mark.parametrize("workload", SMALL)
def test_an_ulp_leads_nowhere_in_a_shallow_model_and_the_trace_is_that_of_parity(opened: Open, workload: str) -> None:
    found = horizon(opened(workload))
    assert found.steps == 12
    assert 0 < found.leads_to("weights") < 1e-12
    traced = Trace.of(tracing.parity(opened(workload), steps=12, precision="fp64"))
    for group in ("losses", "gradients", "weights"):
        for name, array in traced.groups[group].items():
            np.testing.assert_array_equal(found.groups[group][name], array)


def test_the_horizon_ends_before_the_step_at_which_an_ulp_leads_too_far_and_is_one_at_least(opened: Open) -> None:
    chaotic = {"learning_rate": 3.0}
    series = horizon(opened("lstm_text", **chaotic), limit=np.inf).sensitivity["weights"]
    assert series[-1] > 100 * series[0], "it grows"
    limit = float(np.sqrt(series[0] * series[-1]))
    steps = next(i for i, far in enumerate(series) if far >= limit)
    found = horizon(opened("lstm_text", **chaotic), limit=limit)
    assert found.steps == steps
    assert found.leads_to("weights") == max(series[:steps]) < limit
    alone = horizon(opened("lstm_text", **chaotic), limit=1e-30)
    assert alone.steps == 1


def test_at_a_lower_rate_the_updates_are_told_which_are_those_of_that_rate(opened: Open) -> None:
    slow = horizon(opened("linear_regression"), rate=0.01, steps=3)
    assert "gradients" not in slow.groups
    updates = slow.groups["updates"]["linear/kernel"]
    whole = horizon(opened("linear_regression", learning_rate=0.001), steps=3)
    start = opened("linear_regression").spec.initial_weights(opened("linear_regression").cell.workload.mapping, 0)
    np.testing.assert_allclose(updates, whole.groups["weights"]["linear/kernel"] - start["linear/kernel"], rtol=1e-9)


def test_an_inference_has_outputs_and_how_far_an_ulp_leads_in_them(opened: Open) -> None:
    found = horizon(opened("transformer_lm", phase="infer"))
    assert (found.steps, set(found.groups)) == (0, {"outputs"})
    assert 0 < found.leads_to("outputs") < 1e-13


def test_ten_ulp_of_the_timed_precision_lead_further_than_one_of_float64(opened: Open) -> None:
    found = horizon(opened("transformer_lm"))
    (gradients,), losses = found.leads_as_timed("gradients"), found.leads_as_timed("losses")
    assert len(losses) == 5
    assert 1e-8 < gradients < 1e-4
    assert gradients > 1e6 * found.leads_to("gradients")
    assert all(1e-9 < loss < 1e-4 for loss in losses)
    (outputs,) = horizon(opened("transformer_lm", phase="infer")).leads_as_timed("outputs")
    assert 1e-8 < outputs < 1e-4
    assert horizon(opened("transformer_lm"), rate=0.1).leads_as_timed("losses") == []
    assert len(horizon(opened("transformer_lm"), steps=2).leads_as_timed("losses")) == 2


# Steps that nobody fetches


def test_steps_whose_losses_nobody_fetches_end_where_the_traced_ones_do(opened: Open) -> None:
    found = tracing.parity(opened("transformer_lm"), steps=10, precision="fp32", unfetched=10)["unfetched"]
    assert found["value"] == 0.0


def test_a_program_that_steps_only_when_it_is_asked_for_its_loss_is_seen(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = opened("transformer_lm")
    build = trial.twin.build

    def lazy(**given: Any) -> Any:
        program = build(**given)
        return dataclasses.replace(
            program, step=lambda i: lambda: program.step(i), fetch=lambda value: np.asarray(value())
        )

    monkeypatch.setattr(trial.twin, "build", lazy)
    found = tracing.parity(trial, steps=10, precision="fp32", unfetched=10)["unfetched"]
    assert found["value"] > 1e-3


# Closing


def closed(trial: Trial, *, steps: int = 12) -> list[str]:
    """The names of the checks that fail."""
    found = tracing.closing(trial, steps=steps, most_s=60.0)
    return [check.name for check in parity.closing_checks(found, "arm") if not check.passed]


@pytest.mark.parametrize("workload", SMALL)
def test_a_program_that_goes_on_as_its_rule_says_passes(opened: Open, workload: str) -> None:
    trial = opened(workload)
    trial.warm(steps=20)
    assert tracing.closing(trial, steps=3, most_s=60.0)["steps"] == 3
    assert closed(trial) == []


def test_closing_ends_after_its_time_but_not_before_three_steps(opened: Open) -> None:
    assert tracing.closing(opened("linear_regression"), steps=50, most_s=0.0)["steps"] == 3


def test_an_inference_closes_by_its_outputs_alone(opened: Open) -> None:
    assert closed(opened("transformer_lm", phase="infer")) == []


@pytest.mark.parametrize("given", [{"n": 5, "d": 1, "noise": 0.0, "learning_rate": 0.5}, {"learning_rate": 0.0}])
def test_weights_that_have_nowhere_to_go_may_stand(opened: Open, given: dict[str, Any]) -> None:
    """Found exactly, or asked not to move."""
    trial = opened("linear_regression", **given)
    trial.warm(steps=3000)
    before = trial.program.weights()
    assert closed(trial) == []
    if not given["learning_rate"]:
        assert all((before[name] == array).all() for name, array in trial.program.weights().items())


def skipping(every: int, start: int = 0) -> Change:
    """Its step leaves out the update of every so many steps, from one on."""

    def change(trial: Trial) -> None:
        program = trial.program
        count = 0

        def step(i: int) -> Any:
            nonlocal count
            count += 1
            if count < start or count % every:
                return program.step(i)
            return np.asarray(1.0)

        trial.program = dataclasses.replace(program, step=step)

    return change


@pytest.mark.parametrize("workload", SMALL)
def test_updates_that_are_left_out_late_or_every_hundredth_are_seen(opened: Open, workload: str) -> None:
    for change, steps, wanted in ((skipping(1, 25), 3, parity.STILL), (skipping(100), 110, parity.IDLE)):
        trial = opened(workload)
        change(trial)
        trial.warm(steps=30)
        assert wanted in closed(trial, steps=steps)


@pytest.mark.parametrize(
    ("workload", "factor"), [("linear_regression", 1.01), ("mnist_cnn", 1.01), ("lstm_text", 100.0)]
)
def test_an_update_that_is_not_the_rules_is_seen(opened: Open, workload: str, factor: float) -> None:
    """Of Adam's only that it goes too far."""
    trial = opened(workload, learning_rate=0.01 * factor)
    told = opened(workload, learning_rate=0.01)
    trial.cell = told.cell
    trial.warm(steps=5)
    assert closed(trial) == ["closing: update"]


def test_one_array_that_stands_still_is_named(opened: Open) -> None:
    trial = opened("transformer_lm")
    program = trial.program
    frozen = program.weights()["block1/dense1/kernel"]

    def weights() -> dict[str, Any]:
        return program.weights() | {"block1/dense1/kernel": frozen}

    trial.program = dataclasses.replace(program, weights=weights)
    found = tracing.closing(trial, steps=3, most_s=60.0)
    assert found["still"] == ["block1/dense1/kernel"]
    (check, *_) = [check for check in parity.closing_checks(found, "arm") if not check.passed]
    assert check.place == "block1/dense1/kernel"


def test_by_adam_no_weight_goes_further_than_its_bound_after_whatever_gradients() -> None:
    rule = Rule(name="adam", learning_rate=0.01)
    draw = np.random.default_rng(0)
    histories = [np.zeros(3000), 1.11 ** np.arange(-300.0, 0), draw.standard_normal(3000), np.ones(3000)]
    longest = 0.0
    for history in histories:
        spikes = np.concatenate([history, [1e3, 1e3, 1e3], np.zeros(20)])
        model = {"w": np.zeros(1)}
        step = optimizer(rule, model)
        for gradient in spikes:
            before = model["w"].copy()
            step({"w": np.array([gradient])})
            update = model["w"] - before
            _, bound, past = tracing._adam(rule, np.array([gradient]), update)
            assert past <= 0, "a correct Adam"
            longest = max(longest, abs(update[0]) / bound)
    assert longest > 0.6, "the bound is near"
    assert tracing._adam(rule, np.ones(1), np.array([1.01 * bound]))[2] > 0


@pytest.mark.parametrize(
    "rule", [Rule(name="sgd", learning_rate=0.1, momentum=0.9), Rule(name="adam", learning_rate=0.1)]
)
@pytest.mark.parametrize("broken", ["weights", "gradient"])
def test_what_is_not_finite_departs_from_every_rule(rule: Rule, broken: str) -> None:
    ones = {"w": np.ones(3)}
    bad = {"w": np.array([1.0, np.nan, 1.0])}
    now, gradient = (bad, ones) if broken == "weights" else (ones, bad)
    _, error, place = tracing._by_the_rule(rule, ones, ones, now, gradient)
    assert (error, place) == (np.inf, "w")
    assert farthest(bad, ones) == farthest(ones, bad) == np.inf
    found = {"steps": 3, "idle": [], "still": [], "error": finite(error), "place": place}
    assert [check.name for check in parity.closing_checks(found, "arm") if not check.passed] == ["closing: update"]


def test_a_move_that_no_gradient_asks_for_departs_from_the_rule() -> None:
    before, after = {"w": np.ones(3)}, {"w": np.full(3, 5.0)}
    nothing = {"w": np.zeros(3)}
    assert tracing._by_the_rule(Rule(name="sgd", learning_rate=0.1), before, before, after, nothing)[1] == np.inf
    assert tracing._by_the_rule(Rule(name="sgd", learning_rate=0.1), before, before, before, nothing)[1] == 0.0


def test_a_program_that_learns_next_to_a_fetch_alone_is_seen_by_closing(opened: Open) -> None:
    """From its 60th step on, where no trace looks: closing fetches no loss."""
    trial = opened("transformer_lm")
    program, since, total = trial.program, 0, 0

    def step(i: int) -> Any:
        nonlocal since, total
        since, total = since + 1, total + 1
        return program.step(i) if since < 3 or total < 60 else np.asarray(1.0)

    def fetch(value: Any) -> Any:
        nonlocal since
        since = 0
        return program.fetch(value)

    trial.program = dataclasses.replace(program, step=step, fetch=fetch)
    trial.measure(steps=70, settle=0, sync="slice")
    assert parity.STILL in closed(trial, steps=6)


# Large arrays


def test_what_is_too_large_for_one_answer_comes_piece_by_piece(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Trace.of(tracing.parity(opened("mnist_cnn"), steps=2, precision="fp64"))
    trial = opened("mnist_cnn")
    monkeypatch.setattr(tracing, "PIECE_BYTES", 1000)
    answer = tracing.parity(trial, steps=2, precision="fp64")
    assert "weights" not in answer
    pieces: list[int] = []

    def piece(kind: str, name: str, start: int) -> dict[str, Any]:
        pieces.append(start)
        return tracing.piece(trial, kind=kind, name=name, start=start)

    found = Trace.of(answer, piece)
    for group, arrays in whole.groups.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(found.groups[group][name], array)
    assert len(pieces) > 1000
