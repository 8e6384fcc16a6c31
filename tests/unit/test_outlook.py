"""Whether a budget will do, and what is said where it will not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.matrix.matrix import Budget
from bench.measure.outlook import Expected, expectation, shortfall
from bench.planning import schedule

# As a newcomer tried it: five arms, two workloads, five minutes, two blocks each, eight times "inconclusive".
LINEAR = Expected(comparison="linear", contrasts=4, blocks=0, block_s=25.0)
CNN = Expected(comparison="cnn", contrasts=4, blocks=0, block_s=60.0)
BUDGET = Budget(max_blocks=12, per_comparison_s=3600.0, total_s=300.0)


def test_a_budget_that_will_do_says_nothing() -> None:
    assert shortfall([LINEAR, CNN], replace(BUDGET, total_s=3600.0), total_s=3600.0, left_s=3400.0) is None
    assert shortfall([], BUDGET, total_s=300.0, left_s=0.0) is None


def test_a_budget_that_will_not_says_how_far_it_comes_what_would_do_and_what_to_leave_out() -> None:
    text = shortfall([LINEAR, CNN], BUDGET, total_s=300.0, left_s=240.0)
    assert text is not None
    assert "about 2 blocks a comparison, where any difference of 8 contrasts takes 9" in text
    assert "total: 16m in the matrix's budget would do" in text  # 60 s spent, 9 · 85 s to come, a tenth in reserve
    assert text.endswith("or leave out cnn")  # what is left takes 8 blocks of 25 s


def test_nothing_is_named_to_leave_out_where_not_even_the_shortest_fits() -> None:
    text = shortfall([LINEAR, CNN], BUDGET, total_s=300.0, left_s=90.0)
    assert text is not None
    assert "leave out" not in text


def test_blocks_that_are_there_already_are_not_asked_for_again() -> None:
    have = [replace(LINEAR, blocks=8), replace(CNN, blocks=8)]
    assert shortfall(have, BUDGET, total_s=900.0, left_s=90.0) is None
    assert shortfall(have, BUDGET, total_s=900.0, left_s=80.0) is not None


def test_a_limit_of_one_comparison_is_seen_too() -> None:
    budget = replace(BUDGET, per_comparison_s=240.0, total_s=7200.0)
    text = shortfall([LINEAR, CNN], budget, total_s=7200.0, left_s=7000.0)
    assert text is not None
    assert "per_comparison: 10m" in text
    assert "total" not in text


def test_fewer_blocks_than_could_claim_anything_are_held_to_what_was_asked() -> None:
    budget = replace(BUDGET, blocks=2)
    assert shortfall([LINEAR, CNN], budget, total_s=300.0, left_s=170.0) is None
    text = str(shortfall([LINEAR, CNN], budget, total_s=300.0, left_s=160.0))
    assert "where the matrix asks for 2" in text
    assert "any difference" not in text


def test_what_is_to_come_counts_what_is_there() -> None:
    have = [replace(LINEAR, blocks=1), replace(CNN, blocks=1)]
    assert expectation(have, replace(BUDGET, blocks=8), least=10) == (
        "blocks to come: 7 of each comparison, in about 10 min"
    )


@pytest.mark.parametrize(
    ("budget", "family", "words"),
    [
        (Budget(blocks=6), 2, "with blocks: 6 and 2 contrasts only a plain difference"),
        (Budget(max_blocks=6), 2, "any difference takes max_blocks: 7, or leave out all but 1 of the contrasts"),
        (Budget(blocks=3), 1, "no difference can be claimed; any difference takes blocks: 6"),
    ],
)
def test_a_matrix_that_cannot_claim_anything_says_so_with_the_number_that_would_do(
    budget: Budget, family: int, words: str
) -> None:
    assert words in str(schedule.too_few_blocks(budget, family))


def test_a_matrix_that_can_claim_says_nothing() -> None:
    assert schedule.too_few_blocks(Budget(blocks=7), 2) is None
    assert schedule.too_few_blocks(Budget(), 8) is None
