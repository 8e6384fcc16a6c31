"""The certificate from literal traces: it passes for equal work, and each of its checks can fail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench import records
from bench.measure import parity
from bench.measure.parity import STEPS, Certificate, certify
from bench.measure.traces import Side, Slow, Trace
from workloads.contract import Cell, Named, pack
from workloads.distance import apart, of_layers
from workloads.linear_regression import spec

WEIGHTS = {"weight": np.array([[1.5], [-2.0], [1e-9]]), "bias": np.array([0.25])}
GRADIENTS = {"weight": np.array([[3.0], [0.0], [-4.0]]), "bias": np.array([1.0])}
LOSSES = 2.0 * 0.9 ** np.arange(STEPS)
ULP32 = float(np.finfo(np.float32).eps)

Groups = Mapping[str, Mapping[str, Any]]


def training(*, noise: float = 0.0, **changed: Any) -> Trace:
    """A training trace, every number off by the relative `noise`."""
    groups = {
        "losses": {"losses": LOSSES * (1 + noise)},
        "gradients": {name: array * (1 + noise) for name, array in GRADIENTS.items()},
        "weights": {name: array * (1 + noise) for name, array in WEIGHTS.items()},
    }
    return Trace(**{"parameter_count": 4, "inputs_sha256": "ab" * 32, "groups": groups, **changed})


def inference(*, noise: float = 0.0) -> Trace:
    return training(groups={"outputs": {f"batch {i}": np.arange(1.0, 7.0) * (1 + noise) for i in range(3)}})


def side(arm: str, *, float64: Trace | None = None, timed: Trace | None = None) -> Side:
    """A healthy arm, unless told otherwise: rounding errors of either precision."""
    return Side(arm=arm, float64=float64 or training(noise=3e-16), timed=timed or training(noise=1e-8))


def certificate(
    *, baseline: Side | None = None, arm: Side | None = None, reference: Trace | None = None
) -> Certificate:
    return certify(
        reference=reference or training(),
        baseline=baseline or side("tensorflow"),
        arm=arm or side("pytorch"),
        precision="fp32",
    )


def with_group(trace: Trace, group: str, name: str, array: Any) -> Trace:
    return replace(trace, groups={**trace.groups, group: {**trace.groups[group], name: array}})


def failed(certificate: Certificate) -> list[tuple[str, str, str]]:
    assert certificate.status == ("failed" if any(not check.passed for check in certificate.checks) else "passed")
    return [(check.name, check.arm, check.place) for check in certificate.checks if not check.passed]


def test_equal_work_passes_and_says_its_largest_float64_error() -> None:
    good = certificate()
    assert (good.status, good.reason) == ("passed", "")
    assert good.max_rel_error is not None
    assert 0 < good.max_rel_error < 1e-15
    assert {check.name for check in good.checks} == {
        "parameters", "inputs", "float64 losses", "float64 gradients", "float64 weights", "fp32 gradients",
        "fp32 losses", "timed losses",
    }  # fmt: skip
    assert {check.arm for check in good.checks if check.name != "timed losses"} == {"tensorflow", "pytorch"}


def test_equal_inferences_pass_by_their_outputs_alone() -> None:
    sides = [Side(arm=arm, float64=inference(noise=3e-16), timed=inference(noise=1e-8)) for arm in ("a", "b")]
    good = certify(reference=inference(), baseline=sides[0], arm=sides[1], precision="fp32")
    assert good.status == "passed"
    assert {check.name for check in good.checks} == {"parameters", "inputs", "float64 outputs", "fp32 outputs"}


def test_another_number_of_parameters_fails_and_says_how_many() -> None:
    bad = certificate(arm=side("pytorch", float64=training(parameter_count=3)))
    assert failed(bad) == [("parameters", "pytorch", "count")]
    assert bad.reason == "pytorch has another number of parameters than the reference (off by 1)"


@pytest.mark.parametrize("where", ["float64", "timed"])
def test_other_input_bytes_fail(where: str) -> None:
    bad = certificate(arm=side("pytorch", **{where: training(inputs_sha256="cd" * 32)}))
    assert failed(bad) == [("inputs", "pytorch", "sha256")]
    assert bad.reason == "pytorch was given other input bytes than the reference"


@pytest.mark.parametrize(
    ("group", "name", "off"),
    [
        ("gradients", "weight", 1e-10),
        ("gradients", "bias", 1e-10),
        ("weights", "weight", 1e-9),
        ("weights", "bias", 1e-9),
    ],
)
def test_a_float64_error_over_the_bound_fails_and_names_its_array(group: str, name: str, off: float) -> None:
    truth = training()
    trace = with_group(truth, group, name, truth.groups[group][name] * (1 + off))
    bad = certificate(arm=side("pytorch", float64=trace))
    assert failed(bad) == [(f"float64 {group}", "pytorch", name)]
    assert bad.reason.startswith(f"pytorch: float64 {group} ({name}) 1.0e-")
    assert bad.max_rel_error == pytest.approx(off, rel=0.01)


def test_a_float64_error_under_the_bound_passes() -> None:
    assert failed(certificate(arm=side("pytorch", float64=training(noise=5e-12)))) == []


def test_a_learning_rate_in_float32_fails() -> None:
    """It costs 5.6e-8 in the losses (measured): a bound of 1e-6 would let it pass."""
    losses = LOSSES * (1 + 5.6e-8 * np.arange(STEPS) / STEPS)
    bad = certificate(arm=side("pytorch", float64=with_group(training(), "losses", "losses", losses)))
    assert failed(bad) == [("float64 losses", "pytorch", "losses")]


def test_the_baseline_is_held_against_the_reference_too() -> None:
    bad = certificate(baseline=side("tensorflow", float64=training(noise=1e-6)))
    assert {arm for _, arm, _ in failed(bad)} == {"tensorflow"}
    assert "and 2 more checks" in bad.reason


def test_losses_that_are_no_numbers_fail_wherever_they_come() -> None:
    for precision in ("float64", "timed"):
        losses = LOSSES.copy()
        losses[2] = np.nan
        trace = with_group(training(), "losses", "losses", losses)
        bad = certificate(arm=side("pytorch", **{precision: trace}))
        assert bad.status == "failed"
        assert "not finite or of another shape" in bad.reason
        json.dumps(bad.to_json(), allow_nan=False)


def test_a_reference_that_is_no_number_certifies_nobody() -> None:
    bad = certificate(reference=with_group(training(), "losses", "losses", np.full(STEPS, np.nan)))
    assert {arm for _, arm, _ in failed(bad)} == {"tensorflow", "pytorch"}


@pytest.mark.parametrize("shape", [(1, 3), (3,), (2, 1)])
def test_an_array_of_another_shape_fails(shape: tuple[int, ...]) -> None:
    array = np.resize(WEIGHTS["weight"], shape)
    bad = certificate(arm=side("pytorch", float64=with_group(training(), "weights", "weight", array)))
    assert failed(bad) == [("float64 weights", "pytorch", "weight")]


def test_an_array_that_is_missing_or_has_another_name_fails() -> None:
    truth = training()
    renamed = replace(truth, groups={**truth.groups, "weights": {"w": WEIGHTS["weight"], "bias": WEIGHTS["bias"]}})
    absent = replace(truth, groups={**truth.groups, "weights": {"bias": WEIGHTS["bias"]}})
    for trace in (renamed, absent):
        bad = certificate(arm=side("pytorch", float64=trace))
        assert failed(bad) == [("float64 weights", "pytorch", "names of arrays")]


@pytest.mark.parametrize("group", ["gradients", "weights", "losses"])
def test_a_group_that_is_absent_fails(group: str) -> None:
    groups = {name: arrays for name, arrays in training().groups.items() if name != group}
    bad = certificate(arm=side("pytorch", float64=training(groups=groups)))
    assert (f"float64 {group}", "pytorch") in [(name, arm) for name, arm, _ in failed(bad)]


def test_the_timed_precision_is_held_to_its_own_float64() -> None:
    wrong = with_group(training(noise=1e-8), "gradients", "weight", GRADIENTS["weight"] * (1 + 2e-4))
    assert failed(certificate(arm=side("pytorch", timed=wrong))) == [("fp32 gradients", "pytorch", "weight")]


@pytest.mark.parametrize("step", range(parity.GATED_STEPS))
def test_a_fault_in_the_timed_precision_alone_fails_at_whichever_step_it_begins(step: int) -> None:
    losses = LOSSES.copy()
    losses[step:] *= 1.01
    wrong = with_group(training(), "losses", "losses", losses)
    assert failed(certificate(arm=side("pytorch", timed=wrong))) == [("fp32 losses", "pytorch", "first 5 steps")]


def test_the_gap_of_timed_losses_has_a_floor_and_a_factor() -> None:
    def gap_check(ours: float, theirs: float) -> parity.Check:
        sides = [
            side(arm, timed=with_group(training(), "losses", "losses", LOSSES * (1 + noise)))
            for arm, noise in (("tensorflow", ours), ("pytorch", theirs))
        ]
        (check,) = [one for one in certificate(baseline=sides[0], arm=sides[1]).checks if one.name == "timed losses"]
        return check

    assert gap_check(0, 2 * ULP32).passed, "under the floor of 8 ulp"
    assert gap_check(1e-5, -1e-5).passed, "twice what either is off"
    assert gap_check(1e-5, -1e-5).limit == pytest.approx(3e-5, rel=1e-3)
    assert gap_check(0, 2 * ULP32).limit == pytest.approx(8 * ULP32)


def test_later_steps_are_recorded_and_not_gated() -> None:
    """Correct implementations drift apart by 2e-2 in 50 float32 steps (measured)."""
    late = LOSSES.copy()
    late[parity.GATED_STEPS :] *= 1.02
    assert failed(certificate(arm=side("pytorch", timed=with_group(training(), "losses", "losses", late)))) == []
    early = LOSSES.copy()
    early[parity.GATED_STEPS - 1] = np.nan
    assert failed(certificate(arm=side("pytorch", timed=with_group(training(), "losses", "losses", early))))


@pytest.mark.parametrize(("unsupported", "status"), [(True, "unsupported"), (False, "broken")])
def test_an_exception_is_no_failed_proof_and_keeps_what_was_proved(unsupported: bool, status: str) -> None:
    reason = "pytorch: ValueError: no"
    out = parity.left_out("pytorch", reason, unsupported=unsupported)
    assert (out.status, out.by, out.reason, out.max_rel_error) == (status, "pytorch", reason, None)
    assert status in records.LEFT_OUT
    assert status not in records.MEASURED
    proved = parity.Certificate(status="passed", reason="", max_rel_error=1e-15)
    assert parity.left_out("pytorch", reason, unsupported=unsupported, before=proved).max_rel_error == 1e-15


@pytest.mark.parametrize(
    ("a", "b", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.2], [1.0, 2.0], 0.1),
        ([1e-9, 2.0], [0.0, 2.0], 5e-10),  # elementwise tests fail at entries near zero
        ([1e-3], [0.0], 1e-3),
        ([], [], 0.0),
        ([1.0], [1.0, 2.0], np.inf),
        ([np.nan], [1.0], np.inf),
        ([1.0], [np.inf], np.inf),
    ],
)
def test_the_error_is_normwise(a: list[float], b: list[float], error: float) -> None:
    assert apart(np.array(a), np.array(b)) == pytest.approx(error)


@pytest.mark.parametrize(("gap", "wrong"), [(2e-16, []), (6e-10, [("float64 weights", "pytorch", "bias")])])
def test_a_weight_that_went_and_came_back_is_held_to_the_largest_that_it_was(gap: float, wrong: list[Any]) -> None:
    """A bias of a support vector machine, of steps that cancel: what is left of it is rounding."""
    back = {**WEIGHTS, "bias": np.array([4e-17])}
    reference = training(groups={**training().groups, "weights": back}, scales={"weight": 2.0, "bias": 3.0})
    sides = [side(name, float64=replace(reference, scales={})) for name in ("tensorflow", "pytorch")]
    off = with_group(sides[1].float64, "weights", "bias", back["bias"] + gap)
    found = certificate(reference=reference, baseline=sides[0], arm=replace(sides[1], float64=off))
    assert failed(found) == wrong


@pytest.mark.parametrize(
    ("precision", "gap", "wrong"),
    [
        ("float64", 3e-17, []),
        ("float64", 8e-13, [("float64 gradients", "pytorch", "dense/bias")]),
        ("fp32", 3e-7, []),
        ("fp32", 8e-6, [("fp32 gradients", "pytorch", "dense/bias")]),
    ],
)
def test_a_gradient_whose_terms_cancel_is_held_to_a_hundredth_of_its_layer_s(
    precision: str, gap: float, wrong: list[Any]
) -> None:
    gradients = {"dense/kernel": np.array([[4.0], [-1.0]]), "dense/bias": np.array([1e-17])}
    exact = training(groups={**training().groups, "gradients": gradients})
    off = with_group(exact, "gradients", "dense/bias", gradients["dense/bias"] + gap)
    arm = side("pytorch", float64=exact, timed=off) if precision == "fp32" else side("pytorch", float64=off, timed=off)
    baseline = side("tensorflow", float64=exact, timed=exact)
    assert failed(certificate(reference=exact, baseline=baseline, arm=arm)) == wrong


def test_one_layer_s_scale_is_not_another_s() -> None:
    arrays = {"first/kernel": np.array([1e-9]), "first/bias": np.array([0.0]), "last/kernel": np.array([5.0])}
    assert of_layers(arrays) == pytest.approx({"first/kernel": 1e-11, "first/bias": 1e-11, "last/kernel": 0.05})


def test_a_trace_is_read_from_the_worker_s_answer() -> None:
    answer = {
        "parameter_count": 2,
        "inputs_sha256": "00",
        "losses": [1.0, None],
        "gradients": {"weight": pack(np.float32([[0.1]]))},
        "weights": {"weight": pack(np.float64([[0.1]]))},
    }
    trace = Trace.of(json.loads(json.dumps(answer)))
    assert np.isnan(trace.groups["losses"]["losses"][1])
    assert trace.groups["gradients"]["weight"].dtype == np.float64
    assert trace.groups["weights"]["weight"][0, 0] == 0.1


def led_to(losses: list[float | None], *, gradients: float = 0.0, **changed: Any) -> Trace:
    """The reference, and how far ten ulp of the timed precision lead in it."""
    return training(sensitivity={"timed": {"losses": losses, "gradients": gradients}}, **changed)


@pytest.mark.parametrize(
    ("losses", "gated"),
    [
        ([1e-7] * 5, 5),
        ([1e-7, 1e-6, 9e-6, 2e-5, 1e-7], 3),
        ([1e-7, None, 1e-7, 1e-7, 1e-7], 1),
        ([3e-4] * 5, 1),
        ([1e-7], 5),
        ([], 5),
    ],
)
def test_losses_as_timed_are_gated_until_float32_leads_past_the_bound_the_first_always(
    losses: list[float | None], gated: int
) -> None:
    reference = led_to(losses)
    assert parity.gated_steps(reference, 1e-4) == gated
    late = LOSSES.copy()
    late[gated:] *= 1.5
    timed = with_group(training(), "losses", "losses", late)
    assert failed(certificate(reference=reference, arm=side("pytorch", timed=timed))) == []
    late[gated - 1] *= 1.5
    timed = with_group(training(), "losses", "losses", late)
    wrong = failed(certificate(reference=reference, arm=side("pytorch", timed=timed)))
    assert "fp32 losses" in {name for name, *_ in wrong}


def test_gradients_as_timed_may_be_off_by_three_times_what_ten_ulp_of_float32_lead_to_and_no_more() -> None:
    reference = led_to([1e-7] * 5, gradients=0.2)
    for noise, wrong in ((0.5, []), (0.7, [("fp32 gradients", "pytorch", "weight")])):
        gradients = {name: array * (1 + noise) for name, array in GRADIENTS.items()}
        timed = training(groups={**training().groups, "gradients": gradients})
        assert failed(certificate(reference=reference, arm=side("pytorch", timed=timed))) == wrong


def slow_sides(noise: float) -> tuple[Slow, dict[str, Side]]:
    """The reference's updates at a hundredth of the rate, and arms whose updates are off by so much."""

    def updates(off: float) -> Trace:
        groups = {
            "losses": {"losses": LOSSES[:12]},
            "updates": {name: 1e-3 * array * (1 + off) for name, array in WEIGHTS.items()},
        }
        return training(groups=groups, sensitivity={"weights": [1e-9] * 12, "losses": [1e-9] * 12})

    arms = {name: replace(side(name), slow=updates(off)) for name, off in (("tensorflow", 0.0), ("pytorch", noise))}
    return Slow(rate=0.01, trace=updates(0.0)), arms


@pytest.mark.parametrize(("noise", "wrong"), [(5e-7, []), (2e-6, [("float64 updates", "pytorch", "weight")])])
def test_updates_at_a_lower_rate_are_held_to_a_millionth_of_their_size(noise: float, wrong: list[Any]) -> None:
    slow, arms = slow_sides(noise)
    found = certify(reference=training(), baseline=arms["tensorflow"], arm=arms["pytorch"], precision="fp32", slow=slow)
    assert failed(found) == wrong
    assert found.horizon is not None
    assert found.horizon["updates"] == {"rate": 0.01, "steps": 12, "sensitivity": 1e-9}


@pytest.mark.parametrize(("noise", "wrong"), [(3e-10, []), (5e-10, [("float64 weights", "pytorch", "weight")])])
def test_where_an_ulp_alone_uses_up_a_bound_it_is_a_hundred_times_as_far_as_the_ulp_leads(
    noise: float, wrong: list[Any]
) -> None:
    reference = training(sensitivity={"weights": [1e-13, *[4e-12] * (STEPS - 1)], "losses": [1e-16] * STEPS})
    off = training(groups={**training().groups, "weights": {k: v * (1 + noise) for k, v in WEIGHTS.items()}})
    assert failed(certificate(reference=reference, arm=side("pytorch", float64=off))) == wrong


def test_on_a_gpu_no_more_steps_go_unfetched_than_are_gated() -> None:
    cell = Cell(workload=Named.of("linear_regression", spec.parameters({})), framework=Named("pytorch"), device="cuda")
    reference = led_to([1e-7, 1e-7, 1e-7, 1.0, 1.0])
    assert parity.unfetched_steps(reference, cell) == 3
    assert parity.unfetched_steps(led_to([1e-7, 1e-7, 1.0, 1.0, 1.0]), cell) == 0, "each would be next to a fetch"
    assert parity.unfetched_steps(reference, replace(cell, device="cpu")) == parity.TIMED_STEPS
