"""Where a series settles: known slow starts, known levels, and noise that settles at once."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
import ruptures

from bench.planning import warmup
from bench.planning.warmup import warm_up_steps

Series = npt.NDArray[np.float64]
COUNT = 600
SEEDS = range(40)


def noisy(level: Series | float, seed: int, *, count: int = COUNT, sd: float = 0.02) -> list[float]:
    """Step times around 1 ms × level, log-normal noise."""
    return list(1e6 * level * np.exp(np.random.default_rng(seed).normal(0.0, sd, count)))


def step(count: int = COUNT) -> Series:
    return np.arange(count, dtype=float)


def slow_start(count: int, *, by: float, steps: float) -> Series:
    """An exponential slow start: the first step takes 1 + by."""
    return 1 + by * np.exp(-step(count) / steps)


def test_flat_noise_settles_at_once() -> None:
    found = [warm_up_steps(noisy(1.0, seed)).steps for seed in range(200)]
    assert sum(steps > warmup.LEAST_STEPS for steps in found) <= 4


def test_a_change_of_level_is_found_at_its_step() -> None:
    level = np.where(step() < 100, 1.1, 1.0)
    for seed in SEEDS:
        found = warm_up_steps(noisy(level, seed))
        assert found.found
        assert abs(found.steps - 100) <= warmup.GROUP_STEPS
        assert found.steps in found.changes


def test_a_faster_start_is_left_out_like_a_slower_one() -> None:
    assert warm_up_steps(noisy(np.where(step() < 50, 0.9, 1.0), 1)).steps == 50


def test_everything_before_the_last_level_is_left_out_though_it_began_at_that_level() -> None:
    level = np.where((step() >= 200) & (step() < 300), 1.1, 1.0)
    assert warm_up_steps(noisy(level, 3)).steps == 300


def test_levels_within_one_percent_of_the_last_are_one_level() -> None:
    def found(by: float) -> warmup.WarmUp:
        return warm_up_steps(noisy(np.where(step() < 300, 1 + by, 1.0), 5, sd=0.002))

    assert found(0.007).changes == (300,)
    assert found(0.007).steps == warmup.LEAST_STEPS
    assert found(0.013).steps == 300


def test_a_drift_is_not_walked_along_in_steps_of_one_percent_and_never_settles() -> None:
    drifting = [warm_up_steps(noisy(1 + 0.2 * step() / COUNT, seed)) for seed in SEEDS]
    assert min(found.steps for found in drifting) > COUNT // 2
    assert sum(found.found for found in drifting) <= 2
    assert {found.steps for found in drifting if not found.found} == {COUNT}


def test_a_last_level_of_less_than_a_fifth_of_the_series_is_no_settling() -> None:
    assert warm_up_steps(noisy(np.where(step() < 470, 1.1, 1.0), 0)).steps == 470
    late = warm_up_steps(noisy(np.where(step() < 500, 1.1, 1.0), 0))
    assert (late.steps, late.found, late.changes) == (COUNT, False, (500,))


def test_outliers_are_no_level() -> None:
    late = 0
    for seed in SEEDS:
        spikes = np.random.default_rng([seed, 1]).random(COUNT) < 0.03
        late += warm_up_steps(noisy(np.where(spikes, 10.0, 1.0), seed)).steps > warmup.LEAST_STEPS
    assert late <= 2  # three outliers among five steps happen once in some 4,000 groups
    one = noisy(1.0, 0)
    one[0] *= 1000
    assert warm_up_steps(one).steps == warmup.LEAST_STEPS


def test_change_points_leave_less_than_half_a_percent_where_three_skipped_steps_leave_more_than_two() -> None:
    """Of a mean over 200 steps, about as many as a block of a slow start's workload measures."""

    def bias(level: Series, skipped: int) -> float:
        return float(level[skipped : skipped + 200].mean() - 1)

    for by, steps in ((0.5, 20.0), (2.0, 10.0), (0.3, 40.0)):
        level = slow_start(2000, by=by, steps=steps)
        left = [bias(level, warm_up_steps(noisy(level[:1000], seed, count=1000, sd=0.01)).steps) for seed in SEEDS]
        assert max(left) < 0.005
        assert bias(level, 3) > 0.02


@pytest.mark.parametrize("count", [1, 4, 15, 29])
def test_a_series_too_short_for_a_change_says_so_and_is_warm_up_from_end_to_end(count: int) -> None:
    found = warm_up_steps(noisy(1.0, 0, count=count))
    assert found == warmup.WarmUp(steps=max(5, count), found=False, changes=())
    assert warm_up_steps(noisy(1.0, 0, count=30)).found


def test_equal_times_and_zeros_of_a_coarse_clock_are_no_fault() -> None:
    assert warm_up_steps([1000] * 300) == warmup.WarmUp(steps=5, found=True, changes=())
    assert warm_up_steps([0] * 300).steps == 5
    assert warm_up_steps([1200] * 100 + [1000] * 200).steps == 100


def test_the_unit_of_time_does_not_matter() -> None:
    series = noisy(slow_start(COUNT, by=0.5, steps=40.0), 2)
    assert warm_up_steps(series) == warm_up_steps([1000 * value for value in series])


def test_segments_are_those_of_pelt() -> None:
    """The compiled search and PELT itself, on levels, slow starts and noise."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        series = rng.normal(size=rng.integers(6, 90))
        for _ in range(rng.integers(0, 4)):
            series[: rng.integers(1, len(series))] += rng.normal(0, 5)
        pelt = ruptures.Pelt("l2", min_size=3, jump=1).fit_predict(series, 3 * math.log(len(series)))
        assert warmup._segments(series) == pelt


def test_the_command_line_does_not_wait_for_ruptures() -> None:
    code = "import sys, bench.planning.warmup, bench.measure.certify; print('ruptures' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
