"""The estimates against scipy, statsmodels and hand calculation, and their error rates by simulation."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from bench import stats

D10 = [0.10, 0.12, 0.09, 0.11, 0.13, 0.08, 0.105, 0.115, 0.095, 0.125]

# --- the contrast


def test_log_ratio_is_positive_where_the_arm_is_quicker() -> None:
    assert stats.log_ratios([2.0, 3.0], [1.0, 3.0]).tolist() == [math.log(2), 0.0]
    assert stats.block_log_ratio(stats.log_ratios([4.0, 1.0], [1.0, 1.0])) == pytest.approx(math.log(2))


def test_interval_agrees_with_a_calculation_by_hand() -> None:
    found = stats.contrast([0.1, 0.2, 0.3])
    half = 4.302653 * 0.1 / math.sqrt(3)  # t(.975, 2) from a table
    assert found.ratio == pytest.approx(math.exp(0.2))
    assert found.half_width == pytest.approx(half, rel=1e-6)
    assert found.ci == pytest.approx((math.exp(0.2 - half), math.exp(0.2 + half)), rel=1e-6)


def test_contrast_agrees_with_scipy_and_takes_the_larger_p() -> None:
    found = stats.contrast(D10)
    t = scipy_stats.ttest_1samp(D10, 0.0)
    wilcoxon = float(scipy_stats.wilcoxon(D10).pvalue)
    interval = t.confidence_interval()
    assert found.ci == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    assert found.p == max(float(t.pvalue), wilcoxon) == wilcoxon == 2 / 2**10


def test_the_t_test_can_be_the_larger_p() -> None:
    skewed = [0.01, 0.011, 0.012, 0.013, 0.014, 0.015, 0.016, 0.9]
    assert stats.contrast(skewed).p == pytest.approx(float(scipy_stats.ttest_1samp(skewed, 0.0).pvalue))


def test_equivalence_agrees_with_statsmodels_on_the_times_themselves() -> None:
    rng = np.random.default_rng(3)
    arm = rng.uniform(5, 6, 12)
    baseline = arm * np.exp(rng.normal(0.005, 0.01, 12))
    expected = ttost_paired(baseline, arm, 1 / 1.02, 1.02, transform=np.log)[0]
    assert stats.contrast(np.log(baseline / arm)).p_equal == pytest.approx(expected)


def test_one_block_has_a_ratio_and_no_interval() -> None:
    found = stats.contrast([0.1])
    assert (found.ratio, found.ci, found.p) == (pytest.approx(math.exp(0.1)), None, None)
    assert stats.half_width([0.1]) == math.inf


def test_no_variance_is_a_fault_and_never_perfect() -> None:
    found = stats.contrast([0.1] * 10)
    assert found.fault is not None
    assert found.ratio is None


@pytest.mark.parametrize("times", [([0.0, 1.0], [1.0, 1.0]), ([1.0, 1.0], [0.0, 0.0]), ([0.0], [0.0]), ([-1.0], [1.0])])
def test_a_time_of_zero_or_less_is_a_fault(times: tuple[list[float], list[float]]) -> None:
    d = stats.block_log_ratio(stats.log_ratios(*times))
    assert stats.contrast([0.1, 0.2, d]).fault is not None


numbers = st.floats(-400, 400, allow_nan=False)


@given(st.lists(st.one_of(numbers, st.floats()), max_size=12))
@settings(max_examples=150, deadline=None)
def test_nothing_that_leaves_is_nan_or_infinite(d: list[float]) -> None:
    json.dumps([asdict(stats.contrast(d)), asdict(stats.drift([d, d]))], allow_nan=False)


times = st.lists(
    st.tuples(st.floats(0.5, 2.0), st.floats(0.5, 2.0)), min_size=3, max_size=12, unique_by=lambda pair: pair[0]
)


@given(times)
@settings(max_examples=60, deadline=None)
def test_swapping_the_sides_inverts_the_ratio(pairs: list[tuple[float, float]]) -> None:
    baseline, arm = zip(*pairs, strict=True)
    there, back = stats.contrast(stats.log_ratios(baseline, arm)), stats.contrast(stats.log_ratios(arm, baseline))
    assert (there.fault is None) == (back.fault is None)
    if there.ratio is not None and back.ratio is not None:
        assert there.ratio * back.ratio == pytest.approx(1)
        assert there.p == pytest.approx(back.p, abs=1e-9)
        assert there.ci is not None
        assert back.ci is not None
        assert there.ci[0] * back.ci[1] == pytest.approx(1)


@given(times, st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_a_slower_machine_leaves_the_ratio_alone(pairs: list[tuple[float, float]], factor: float) -> None:
    baseline, arm = (np.array(side) for side in zip(*pairs, strict=True))
    here = stats.contrast(stats.log_ratios(baseline, arm))
    there = stats.contrast(stats.log_ratios(factor * baseline, factor * arm))
    assert here.ratio == pytest.approx(there.ratio, rel=1e-9)
    assert here.half_width == pytest.approx(there.half_width, rel=1e-6)


# --- simulations, fixed seeds


def test_identical_arms_differ_in_at_most_seven_percent() -> None:
    rng = np.random.default_rng(101)
    p = [stats.contrast(rng.normal(0, 0.015, 10)).p for _ in range(600)]
    assert sum(value < 0.05 for value in p if value is not None) / 600 <= 0.07


@pytest.mark.parametrize("noise", ["normal", "heavy tails", "two modes"])
def test_the_interval_covers_the_true_ratio(noise: str) -> None:
    rng = np.random.default_rng(202)
    draws = {
        "normal": lambda: rng.normal(0, 0.015, 10),
        "heavy tails": lambda: 0.01 * rng.standard_t(3, 10),
        "two modes": lambda: rng.normal(0, 0.005, 10) + 0.02 * rng.integers(0, 2, 10) - 0.01,
    }
    covered = 0
    for _ in range(400):
        ci = stats.contrast(0.05 + draws[noise]()).ci
        covered += ci is not None and ci[0] <= math.exp(0.05) <= ci[1]
    assert covered / 400 >= 0.93


def test_ten_percent_more_work_is_found_every_time() -> None:
    rng = np.random.default_rng(303)
    found = [stats.contrast(rng.normal(-math.log(1.1), 0.015, 10)) for _ in range(60)]
    assert all(one.p is not None and one.p < 0.05 and one.ratio and one.ratio < 1 for one in found)


def test_a_difference_of_theta_is_rarely_called_equivalent() -> None:
    rng = np.random.default_rng(404)
    found = [stats.contrast(rng.normal(math.log(1.02), 0.01, 12)).p_equal for _ in range(400)]
    assert sum(p is not None and p < 0.05 for p in found) / 400 <= 0.065


# --- Holm


def test_holm_agrees_with_a_calculation_by_hand_and_keeps_gaps() -> None:
    assert stats.holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert stats.holm([0.01, 0.04]) == pytest.approx(multipletests([0.01, 0.04], method="holm")[1].tolist())
    assert stats.holm([None]) == [None]
    assert stats.holm([]) == []


# --- blocks


def test_blocks_needed_is_the_fewest_that_reach_the_target() -> None:
    for spread in (0.005, 0.013, 0.04):
        needed = stats.blocks_needed(spread, 0.01)
        assert needed is not None
        widths = [scipy_stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n) for n in (max(2, needed - 1), needed)]
        assert widths[1] <= 0.01
        assert needed == 2 or widths[0] > 0.01
    assert stats.blocks_needed(10.0, 0.01) is None


def test_blocks_to_claim_are_the_fewest_whose_smallest_p_survives_holm() -> None:
    for family in (1, 2, 8, 15, 40):
        blocks = stats.blocks_to_claim(family)
        assert family * 2 * 0.5**blocks <= stats.ALPHA < family * 2 * 0.5 ** (blocks - 1)


def test_a_plain_difference_is_over_a_tenth_in_every_block() -> None:
    assert stats.contrast([0.5, 0.55, 0.45, 0.5]).plain_ci is not None
    assert stats.contrast([0.09, 0.095, 0.085, 0.09]).plain_ci is None
    assert stats.contrast([-0.5, -0.55, -0.45, 0.01]).plain_ci is None


# --- steadiness


def drifting(total: float, blocks: int = 10, noise: float = 0.003, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [0.1 + np.linspace(0, total, 12) + rng.normal(0, noise, 12) for _ in range(blocks)]


@pytest.mark.parametrize("total", [-0.03, 0.03])
def test_an_arm_that_alone_slows_through_a_block_has_no_steady_state(total: float) -> None:
    moved = stats.drift(drifting(total))
    assert moved.verdict in {"no_steady_state", "degrading"}
    assert moved.shown
    assert moved.mean is not None
    assert math.copysign(1, moved.mean) == math.copysign(1, total)


def test_a_drift_whose_interval_reaches_into_one_percent_is_degrading() -> None:
    falls = [-0.012, -0.020, -0.005, -0.025, -0.018, -0.004]
    moved = stats.drift([0.1 + fall / 8 * np.arange(12) for fall in falls])  # 8 rounds from third to third
    assert moved.mean == pytest.approx(-0.014)
    assert moved.ci is not None
    assert moved.ci[0] < -stats.STEADY < moved.ci[1] < 0
    assert moved.verdict == "degrading"


def test_bursts_of_the_machine_on_single_rounds_neither_hide_a_drift_nor_make_one() -> None:
    def with_bursts(total: float) -> list[np.ndarray]:
        rng = np.random.default_rng(3)
        return [block + rng.choice([0.0, 0.2, -0.2], len(block), p=[0.8, 0.1, 0.1]) for block in drifting(total)]

    moved = stats.drift(with_bursts(-0.03))
    assert moved.verdict in {"no_steady_state", "degrading"}
    assert moved.mean == pytest.approx(-0.03 * 8 / 11, abs=0.004)
    assert stats.drift(with_bursts(0.0)).verdict is None


@pytest.mark.parametrize("total", [0.0, 0.008])
def test_no_drift_and_a_small_one_are_steady(total: float) -> None:
    assert stats.drift(drifting(total)).verdict is None


def test_drift_that_both_arms_share_cancels() -> None:
    rng = np.random.default_rng(9)
    shared = [np.linspace(1, 1.3, 12) * (1 + rng.normal(0, 0.002, 12)) for _ in range(8)]
    rounds = [stats.log_ratios(5 * times, 4 * times * np.exp(rng.normal(0, 0.002, 12))) for times in shared]
    assert stats.drift(rounds).verdict is None


def test_too_few_rounds_or_blocks_judge_nothing() -> None:
    assert stats.drift([np.linspace(0, 1, 5)] * 5).mean is None
    assert stats.drift([np.linspace(0, 1, 12)]).mean is None


# --- cells


def test_a_median_takes_its_interval_from_order_statistics() -> None:
    assert stats.cell_figure([3, 1, 2, 6, 5, 4]) == stats.Figure(median=3.5, ci=(1.0, 6.0))
    ten = stats.cell_figure(range(10))  # type: ignore[arg-type]
    assert ten == stats.Figure(median=4.5, ci=(1.0, 8.0))  # ranks 2 and 9: binomial(10, ½)


def test_five_trials_have_a_median_and_no_interval() -> None:
    assert stats.cell_figure([1, 2, 3, 4, 5]) == stats.Figure(median=3, ci=None)


def test_a_cell_without_numbers_has_no_figure() -> None:
    assert stats.cell_figure([]) is None
    assert stats.cell_figure([1.0, math.nan]) is None
    assert stats.cell_figure([1.0, math.inf]) is None


def test_cells_are_covered() -> None:
    rng = np.random.default_rng(505)
    figures = [stats.cell_figure(rng.exponential(1, 10)) for _ in range(300)]
    covered = [figure is not None and figure.ci is not None and figure.ci[0] <= math.log(2) <= figure.ci[1]
               for figure in figures]  # fmt: skip
    assert np.mean(covered) >= 0.95


@pytest.mark.parametrize(("q", "least"), [(0.9, 64), (0.99, 662), (0.999, 6636)])
def test_a_percentile_needs_its_steps(q: float, least: int) -> None:
    steps = list(range(least))
    assert stats.percentile(steps, q) == pytest.approx(np.quantile(steps, q))
    assert stats.percentile(steps[:-1], q) is None
