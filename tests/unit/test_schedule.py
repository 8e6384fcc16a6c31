"""The plan is a function of its seed, a resumed run continues it, and no p value ever stops it."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from bench import records as stored
from bench import stats
from bench.planning import schedule
from bench.planning import slices as plans
from bench.planning.schedule import Planned

COMPARISONS = ("a", "b", "c", "d")


@dataclass(frozen=True, kw_only=True)
class Budget:
    half_width: float = 0.01
    blocks: int | None = None
    max_blocks: int = 40
    per_comparison_s: float | None = None


def record(
    comparison: str, block: int, *, attempt: int = 0, spoiled: tuple[str, ...] = (), **arms: str
) -> dict[str, Any]:
    statuses = {"x": "measured", "y": "measured", **arms}
    outcomes = {arm: {"status": status, "reason": "no such mode"} for arm, status in statuses.items()}
    return {"comparison": comparison, "block": block, "attempt": attempt, "spoiled": list(spoiled), "arms": outcomes}


# --- orders


def test_same_seed_same_plan_and_another_seed_another() -> None:
    def plan(seed: int) -> list[Any]:
        orders = [schedule.order(COMPARISONS, block, seed) for block in range(10)]
        planned = Planned(comparison="a", block=3)
        turns = schedule.turns(("x", "y", "z"), planned, 20, seed)
        return [*orders, turns, schedule.start_order(("x", "y"), planned, seed), schedule.padding("x", planned, seed)]

    assert plan(1) == plan(1)
    assert plan(1) != plan(2)


def test_the_plan_never_changes_between_versions() -> None:
    orders = ["".join(schedule.order(COMPARISONS, block, 0)) for block in range(3)]
    assert orders == ["abdc", "dbca", "dacb"]


def test_orders_are_permutations_and_all_of_them_occur() -> None:
    orders = Counter(schedule.order(("a", "b", "c"), block, 5) for block in range(300))
    assert set(orders) == set(itertools.permutations("abc"))
    assert min(orders.values()) > 25


def test_turns_shuffle_each_round_and_each_attempt() -> None:
    first = schedule.turns(("x", "y"), Planned(comparison="a", block=0), 30, 1)
    again = schedule.turns(("x", "y"), Planned(comparison="a", block=0, attempt=1), 30, 1)
    assert all(sorted(turn) == ["x", "y"] for turn in first)
    assert len(set(first)) == 2
    assert first != again


def test_the_order_in_which_arms_are_named_does_not_matter() -> None:
    planned = Planned(comparison="a", block=0)
    assert schedule.turns(("x", "y"), planned, 9, 1) == schedule.turns(("y", "x"), planned, 9, 1)


def test_padding_stays_within_a_page() -> None:
    sizes = [schedule.padding("x", Planned(comparison="a", block=block), 0) for block in range(400)]
    assert 0 <= min(sizes) < 200
    assert 3900 < max(sizes) < 4096


# --- slices


def test_slices_of_both_arms_last_alike() -> None:
    slices = plans.slice_plan({"x": [1_000_000] * 5, "y": [2_500_000] * 5})
    assert slices.steps == {"x": 10, "y": 4}
    assert slices.rounds == 40  # 1 s of 20 ms are 50 rounds


def test_a_step_longer_than_a_slice_is_a_slice() -> None:
    slices = plans.slice_plan({"x": [30e6, 31e6, 29e6], "y": [15e6]})
    assert slices.steps == {"x": 1, "y": 2}
    assert slices.rounds == 17
    assert plans.slice_plan({"x": [240e6], "y": [30e6]}).rounds == 16
    assert plans.slice_plan({"x": [2e9], "y": [1e9]}).rounds == 6


def test_an_outlier_of_the_pilot_does_not_set_the_slice() -> None:
    assert plans.slice_plan({"x": [1e6, 1e6, 1e6, 900e6], "y": [1e6]}).steps == {"x": 10, "y": 10}


def test_a_slice_lasts_ten_thousand_readings_of_the_clock_and_a_hundred_questions() -> None:
    pilot = {"x": [1e6], "y": [2e6]}
    assert plans.slice_plan(pilot, timer_ns={"x": 100.0, "y": 50.0}).steps == {"x": 10, "y": 5}
    assert plans.slice_plan(pilot, timer_ns={"x": 100.0, "y": 3000.0}).steps == {"x": 30, "y": 15}
    slices = plans.slice_plan(pilot, control_ns={"x": 400_000.0, "y": 200_000.0}, syncs=1)
    assert slices.steps == {"x": 40, "y": 20}
    assert slices.control_share == {"x": pytest.approx(0.01), "y": pytest.approx(0.005)}
    assert slices.rounds == 25  # 1 s of 40 ms


def test_a_busy_machine_s_slow_answers_lengthen_no_block_beyond_its_target_and_are_told() -> None:
    slices = plans.slice_plan({"x": [1e6], "y": [2e6]}, control_ns={"x": 9e6, "y": 9e6}, syncs=1)
    assert slices.steps == {"x": 63, "y": 32}
    assert slices.rounds == 16
    assert slices.control_share == {"x": pytest.approx(9 / 63), "y": pytest.approx(9 / 64)}


def test_the_timer_is_paid_once_a_slice_or_once_a_step() -> None:
    def share(sync: str) -> dict[str, float]:
        slices = plans.slice_plan({"x": [1e6], "y": [2e6]}, timer_ns={"x": 100.0, "y": 100.0}, sync=sync)
        return dict(slices.timer_share)

    assert share("slice") == {"x": pytest.approx(1e-5), "y": pytest.approx(1e-5)}
    assert share("step") == {"x": pytest.approx(1e-4), "y": pytest.approx(5e-5)}


# --- when to stop


@pytest.mark.parametrize(("family", "least"), [(1, 10), (25, 10), (26, 11), (40, 11), (1000, 16)])
def test_k_min_lets_wilcoxon_survive_holm(family: int, least: int) -> None:
    assert stats.k_min(family) == least
    assert family * 2 / 2**least <= 0.05
    assert least == 10 or family * 2 / 2 ** (least - 1) > 0.05


def noise(sd: float, blocks: int, seed: int = 0) -> list[float]:
    return list(np.random.default_rng(seed).normal(0.2, sd, blocks))


def test_stops_at_the_half_width_and_not_before_k_min() -> None:
    precise = noise(0.002, 12)
    assert schedule.enough([precise[:9]], Budget(), 10) is None
    assert "reached in 10 blocks" in (schedule.enough([precise[:10]], Budget(), 10) or "")


def test_a_wide_interval_goes_on_until_the_most_blocks() -> None:
    wide = noise(0.2, 40)
    assert schedule.enough([wide[:39]], Budget(), 10) is None
    assert "40" in (schedule.enough([wide], Budget(), 10) or "")


def test_never_stops_on_a_p_value() -> None:
    certain = noise(0.05, 15)  # 20 % apart, p far below 0.001, ± 3 %
    assert schedule.enough([certain], Budget(), 10) is None


def test_exact_blocks_ignore_width_and_k_min() -> None:
    budget = Budget(blocks=8)
    assert schedule.enough([noise(1e-6, 7)], budget, 10) is None
    assert schedule.enough([noise(0.5, 8)], budget, 10) == "all 8 blocks measured"


def test_every_contrast_of_a_comparison_must_be_precise() -> None:
    precise, wide = noise(0.002, 12), noise(0.2, 12)
    assert schedule.enough([precise, wide], Budget(), 10) is None
    assert schedule.enough([precise, precise], Budget(), 10) is not None


def test_time_spent_stops_and_so_does_nothing_measured() -> None:
    assert schedule.enough([[]], Budget(per_comparison_s=300), 10, spent_s=299) is None
    assert "300 s" in (schedule.enough([[]], Budget(per_comparison_s=300), 10, spent_s=300) or "")
    assert schedule.enough([], Budget(), 10) is None


def test_a_ratio_that_is_no_number_never_counts_as_precise() -> None:
    assert schedule.enough([[*noise(0.001, 11), math.nan]], Budget(), 10) is None


def given_up(records: list[dict[str, Any]], budget: Budget, arms: str = "xyz") -> str | None:
    """Of a comparison whose baseline is x, by its blocks alone."""
    out = stored.left_out(records)
    return schedule.given_up(records, budget, arms=list(arms), essential=("reference", "x"), out=out)


def test_an_arm_that_failed_in_three_blocks_in_a_row_is_not_started_any_more_and_the_others_go_on() -> None:
    good, bad = record("a", 0, z="measured"), record("a", 1, z="failed")
    assert stored.left_out([good, bad, bad]) == {}
    assert stored.left_out([good, bad, bad, good, bad]) == {}
    told = "z failed in 3 blocks in a row: no such mode"
    assert stored.left_out([good, bad, bad, bad]) == {"z": told}
    assert stored.left_out([good, bad, bad, bad, record("a", 4), record("a", 5)]) == {"z": told}
    assert given_up([good, bad, bad, bad], Budget()) is None
    assert given_up([good, bad, bad, bad], Budget(), "xz") == told


def test_an_arm_that_said_unsupported_is_not_started_again() -> None:
    records = [record("a", 0, z="unsupported")]
    assert stored.left_out(records) == {"z": "z is unsupported: no such mode"}
    assert given_up(records, Budget()) is None
    assert given_up(records, Budget(), "xz") == "z is unsupported: no such mode"


def test_an_arm_that_was_stopped_because_another_failed_neither_failed_nor_did_well() -> None:
    records = [record("a", 0, y="failed", z="stopped"), record("a", 1, y="stopped", z="failed")] * 2
    assert stored.left_out(records) == {}
    assert list(stored.left_out([*records, records[0]])) == ["y"]


def test_without_its_baseline_or_its_reference_a_comparison_ends() -> None:
    stopped = {"x": "stopped", "y": "stopped", "z": "stopped"}
    for name in ("x", "reference"):
        bad = record("a", 0, **{**stopped, name: "failed"})
        assert given_up([bad, bad], Budget()) is None
        assert given_up([bad, bad, bad], Budget()) == f"{name} failed in 3 blocks in a row: no such mode"


def test_a_comparison_whose_blocks_are_spoiled_again_and_again_ends() -> None:
    spoiled = [record("a", k // 3, attempt=k % 3, spoiled=("steal",)) for k in range(9)]
    assert given_up(spoiled[:8], Budget(blocks=3)) is None
    assert given_up(spoiled, Budget(blocks=3)) is not None


def test_what_an_arm_cost_before_it_was_left_out_shortens_no_other_s_measurement() -> None:
    records = [record("a", block, z="failed") for block in range(3)]
    records += [record("a", 3 + k // 3, attempt=k % 3, spoiled=("steal",)) for k in range(8)]
    assert given_up(records, Budget(blocks=3)) is None


# --- what is next


def played(records: list[dict[str, Any]], count: int, seed: int = 3) -> list[Planned]:
    """The next `count` blocks, each stored as good before the next is asked for."""
    records, done = list(records), []
    while len(done) < count:
        planned = schedule.pending(COMPARISONS, records, finished=set(), seed=seed)[0]
        done.append(planned)
        records.append(record(planned.comparison, planned.block, attempt=planned.attempt))
    return done


def test_block_k_of_all_comes_before_block_k_plus_one_of_any() -> None:
    blocks = [planned.block for planned in played([], 16)]
    assert blocks == sorted(blocks)
    assert Counter(blocks) == {0: 4, 1: 4, 2: 4, 3: 4}


def test_the_round_follows_its_own_order() -> None:
    assert tuple(planned.comparison for planned in played([], 4)) == schedule.order(COMPARISONS, 0, 3)


@pytest.mark.parametrize("killed_after", range(9))
def test_a_resumed_run_measures_the_rest_once_in_the_same_order(killed_after: int) -> None:
    whole = played([], 12)
    stored = [record(planned.comparison, planned.block) for planned in whole[:killed_after]]
    assert played(stored, 12 - killed_after) == whole[killed_after:]


def test_a_spoiled_block_is_repeated_and_then_let_go() -> None:
    records = [record("a", 0, spoiled=("throttled",))]
    assert schedule.pending(["a"], records, finished=set(), seed=0) == (Planned(comparison="a", block=0, attempt=1),)
    records.append(record("a", 0, attempt=1, spoiled=("throttled",)))
    records.append(record("a", 0, attempt=2, spoiled=("throttled",)))
    assert schedule.pending(["a"], records, finished=set(), seed=0) == (Planned(comparison="a", block=1),)


def test_a_failed_block_is_recorded_and_the_run_goes_on() -> None:
    records = [record("a", 0, y="failed")]
    assert schedule.pending(["a"], records, finished=set(), seed=0) == (Planned(comparison="a", block=1),)


def test_a_gap_is_filled_first() -> None:
    records = [record("a", 0), record("a", 2)]
    assert schedule.pending(["a"], records, finished=set(), seed=0) == (Planned(comparison="a", block=1),)


def test_finished_comparisons_are_left_out() -> None:
    planned = schedule.pending(("a", "b"), [record("b", 0)], finished={"a"}, seed=0)
    assert planned == (Planned(comparison="b", block=1),)
    assert schedule.pending(("a",), [], finished={"a"}, seed=0) == ()


def test_the_last_attempt_of_a_block_counts() -> None:
    spoiled, good = record("a", 0, spoiled=("steal",)), record("a", 0, attempt=1)
    assert stored.latest([good, spoiled]) == [good]


def test_half_a_block_never_counts() -> None:
    assert stored.valid(record("a", 0))
    assert not stored.valid(record("a", 0, spoiled=("steal",)))
    assert not stored.valid(record("a", 0, y="failed"))
    assert not stored.valid(record("a", 0, y="unsupported"))


@pytest.mark.parametrize("status", ["failed", "unsupported"])
def test_a_block_counts_for_the_arms_that_it_measured_whatever_became_of_another(status: str) -> None:
    found = record("a", 0, y=status, z="measured")
    assert stored.valid(found)
    assert stored.measured(found) == {"x", "z"}


def test_a_spoiled_block_is_repeated_though_an_arm_failed_in_it() -> None:
    records = [record("a", 0, spoiled=("steal",), y="failed", z="measured")]
    assert schedule.pending(["a"], records, finished=set(), seed=0) == (Planned(comparison="a", block=0, attempt=1),)


# --- adaptive allocation


def simulated(
    spreads: dict[str, float], *, rounds_of_time: int, adaptive: bool, seed: int = 5
) -> dict[str, str | None]:
    """Measure until so many blocks are spent in all; why each comparison finished, None where it did not."""
    rng = np.random.default_rng(seed)
    noise = {name: rng.normal(0, 1, 200) for name in spreads}
    noise = {name: values / values[:30].std(ddof=1) for name, values in noise.items()}
    budget, least = Budget(), stats.k_min(len(spreads))
    records: list[dict[str, Any]] = []
    done: dict[str, str | None] = {}
    while len(records) < rounds_of_time:
        series = {
            name: list(spreads[name] * noise[name][: sum(one["comparison"] == name for one in records)])
            for name in spreads
        }
        spent = {name: float(len(values)) for name, values in series.items()}
        done = {name: schedule.enough([series[name]], budget, least) for name in spreads}
        left = {name: schedule.remaining_s([series[name]], budget, least, spent_s=spent[name]) for name in spreads}
        due = schedule.pending(
            list(spreads),
            records,
            finished={name for name, why in done.items() if why},
            seed=seed,
            least=least if adaptive else None,
            remaining_s=left if adaptive else None,
        )
        if not due:
            break
        records += [record(one.comparison, one.block) for one in due]
    return done


def test_scarce_time_decides_more_comparisons_when_it_goes_to_the_nearest() -> None:
    spreads = {"a": 0.010, "b": 0.017, "c": 0.020, "d": 0.022, "e": 0.06, "f": 0.07}

    def decided(adaptive: bool) -> int:
        return sum(why is not None for why in simulated(spreads, rounds_of_time=88, adaptive=adaptive).values())

    assert decided(adaptive=True) > decided(adaptive=False)


def test_ample_time_finishes_every_comparison() -> None:
    assert all(simulated({"a": 0.01, "b": 0.02, "c": 0.2}, rounds_of_time=500, adaptive=True).values())


def test_no_comparison_gets_more_before_all_have_k_min() -> None:
    records = [record(name, block) for block in range(9) for name in COMPARISONS]
    left = {"a": 1.0, "b": 1.0, "c": 99.0, "d": math.inf}
    due = schedule.pending(COMPARISONS, records, finished=set(), seed=0, least=10, remaining_s=left)
    assert {planned.comparison for planned in due} == set(COMPARISONS)


def test_what_is_measured_more_depends_on_the_width_and_never_on_the_ratio() -> None:
    small = noise(0.03, 12)
    shifted = [value + 0.5 for value in small]
    seconds = [schedule.remaining_s([values], Budget(), 10, spent_s=120.0) for values in (small, shifted)]
    assert seconds[0] == pytest.approx(seconds[1])
    assert 0 < seconds[0] < math.inf


def test_a_comparison_that_cannot_be_decided_waits_for_the_others() -> None:
    assert schedule.remaining_s([noise(0.5, 10)], Budget(), 10, spent_s=100.0) == math.inf
    assert schedule.remaining_s([noise(0.02, 10)], Budget(per_comparison_s=101.0), 10, spent_s=100.0) == math.inf
    records = [record(name, block) for block in range(10) for name in COMPARISONS]
    left = {"a": math.inf, "b": 30.0, "c": 20.0, "d": math.inf}
    due = schedule.pending(COMPARISONS, records, finished=set(), seed=0, least=10, remaining_s=left)
    assert {planned.comparison for planned in due} == {"b", "c"}
    rest = schedule.pending(COMPARISONS, records, finished={"b", "c"}, seed=0, least=10, remaining_s=left)
    assert {planned.comparison for planned in rest} == {"a", "d"}
