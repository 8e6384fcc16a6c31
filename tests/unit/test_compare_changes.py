"""Two runs of the same program find nothing, a tenth more work is found, and a claim is laid to the right arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bench.history import compare
from bench.history.change import SESSION, blocks_to_show, change
from bench.history.pairing import CPU, WALL, Pair

TENTH = math.log(1.10)


def sessions(
    rng: np.random.Generator,
    *,
    more: tuple[float, float] = (0.0, 0.0),
    blocks: int = 10,
    spread: float = 0.015,
    session: float = SESSION,
    comparison: str = "c",
    changed: tuple[Sequence[str], Sequence[str]] = ((), ()),
    device: str = "cpu",
    waiting: tuple[float, float] = (0.0, 0.0),
) -> list[Pair]:
    """A comparison of two arms in two sessions: what blocks share and what is each arm's own, and the session's own.

    more     log of the work after ÷ before, of the baseline and of the arm     waiting  the same of wall time alone
    spread   SD of CPU times between blocks; wall time is noisier by 4 %, and by 10 % that the arms of a block share
    session  what a session adds, in the same parts: its SD in SDs between blocks
    """
    times: list[list[tuple[list[float], list[float]]]] = []
    for side in (0, 1):
        shared, busy = 0.8 * drawn(rng, spread, blocks, session), rng.normal(0, 0.1, blocks)
        arms = []
        for arm in (0, 1):
            cpu = 10 + side * more[arm] + shared + 0.6 * drawn(rng, spread, blocks, session)
            wall = cpu + busy + rng.normal(0, 0.04, blocks) + side * waiting[arm]
            arms.append((list(wall), list(cpu)))
        times.append(arms)
    return [pair(times, arm, comparison, changed[arm], device) for arm in (0, 1)]


def drawn(rng: np.random.Generator, spread: float, blocks: int, session: float) -> Any:
    """Blocks around a session's own value, (blocks,)."""
    return rng.normal(0, session * spread) + rng.normal(0, spread, blocks)


def pair(times: Any, arm: int, comparison: str, changed: Sequence[str], device: str) -> Pair:
    def ratios(kind: int) -> tuple[list[float], list[float]]:
        before, after = (list(np.subtract(times[side][1][kind], times[side][0][kind])) for side in (0, 1))
        return before, after

    return Pair(
        comparison=comparison,
        arms=(f"arm{arm}", f"arm{arm}"),
        label=("TF", "PyTorch")[arm],
        baseline=arm == 0,
        device=device,
        wall=(times[0][arm][0], times[1][arm][0]),
        cpu=(times[0][arm][1], times[1][arm][1]),
        against={WALL: ratios(0), CPU: ratios(1)} if arm else {},
        changed=changed,
    )


def verdicts(pairs: Sequence[Pair], limit: float | None = 0.05) -> list[dict[str, Any]]:
    return compare.verdicts(pairs, fail_above=limit)


@pytest.fixture(autouse=True)
def quick_corrections(monkeypatch: pytest.MonkeyPatch) -> None:
    """statsmodels collects garbage at every call: a fifth of a second, many hundred times here."""
    monkeypatch.setattr("gc.collect", lambda: 0)


def share(seeds: int, found: Any) -> tuple[float, float]:
    """The exact 95 % interval of how often it was found."""
    count = sum(bool(found(np.random.default_rng(seed))) for seed in range(seeds))
    interval = scipy_stats.binomtest(count, seeds).proportion_ci(method="exact")
    return float(interval.low), float(interval.high)


# --- how often it is wrong, and how often it finds something


@pytest.mark.parametrize(("comparisons", "spread"), [(1, 0.015), (3, 0.015), (1, 0.08)])
@pytest.mark.second
def test_two_sessions_of_the_same_program_find_nothing(comparisons: int, spread: float) -> None:
    """Sessions that differ as much as blocks do; less than that, as measured, and it is found less often."""

    def anything(rng: np.random.Generator) -> bool:
        pairs = [one for number in range(comparisons) for one in sessions(rng, spread=spread, comparison=str(number))]
        return any(cell["verdict"] in {"slower", "faster"} for cell in verdicts(pairs))

    low, high = share(300, anything)
    assert low <= 0.05
    assert high <= 0.10


def test_two_sessions_of_a_steady_machine_find_next_to_nothing() -> None:
    def anything(rng: np.random.Generator) -> bool:
        return any(cell["verdict"] in {"slower", "faster"} for cell in verdicts(sessions(rng, session=0.3)))

    _, high = share(200, anything)
    assert high <= 0.03


def test_without_a_sessions_share_of_the_uncertainty_the_same_program_is_often_found_changed() -> None:
    def anything(rng: np.random.Generator) -> bool:
        samples = sessions(rng)[1].cpu
        return bool((change(*samples, session=0.0).p or 1) < 0.05)

    low, _ = share(200, anything)
    assert low > 0.2


@pytest.mark.parametrize("changed", [((), ("framework work: 1.0 → 1.1",)), ((), ())], ids=["on record", "unrecorded"])
def test_a_tenth_more_work_in_one_arm_fails_the_gate_and_is_laid_to_that_arm(changed: Any) -> None:
    def missed(rng: np.random.Generator) -> bool:
        cells = verdicts(sessions(rng, more=(0, TENTH), changed=changed, spread=0.012))
        return [cell["above"] for cell in cells] != [False, True]

    _, high = share(150, missed)
    assert high <= 0.05


def test_a_tenth_more_work_in_every_arm_fails_the_gate() -> None:
    def missed(rng: np.random.Generator) -> bool:
        return not any(cell["above"] for cell in verdicts(sessions(rng, more=(TENTH, TENTH), blocks=12, spread=0.012)))

    _, high = share(150, missed)
    assert high <= 0.05


def test_the_interval_covers_the_change_that_was_made() -> None:
    def covered(rng: np.random.Generator) -> bool:
        found = change(*sessions(rng, more=(TENTH, TENTH))[0].cpu)
        assert found.ci
        return found.ci[0] <= 1.1 <= found.ci[1]

    low, _ = share(600, covered)
    assert low >= 0.92


# --- a change


def test_without_a_session_it_is_welchs_interval_and_the_larger_p() -> None:
    rng = np.random.default_rng(5)
    before, after = rng.normal(0, 0.02, 9), rng.normal(0.03, 0.05, 12)
    found = change(before, after, session=0.0)
    welch = scipy_stats.ttest_ind(after, before, equal_var=False)
    interval = welch.confidence_interval(0.95)
    assert found.ratio == pytest.approx(math.exp(after.mean() - before.mean()))
    assert found.ci == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    assert found.p == pytest.approx(max(welch.pvalue, scipy_stats.mannwhitneyu(before, after).pvalue))


def test_more_blocks_do_not_lessen_what_a_session_adds() -> None:
    rng = np.random.default_rng(5)
    found = change(rng.normal(0, 0.01, 4000), rng.normal(0, 0.01, 4000))
    assert found.ci
    assert math.log(found.ci[1] / found.ci[0]) / 2 == pytest.approx(1.96 * 0.01 * math.sqrt(2) * SESSION, rel=0.05)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ([], [1.0, 2.0], "no valid block"),
        ([1.0], [1.0, 2.0], "two blocks"),
        ([1.0, 1.0], [1.0, 1.0], "without any variance"),
        ([1.0, math.nan], [1.0, 1.1], "absurd"),
        ([1.0, -math.inf], [1.0, 1.1], "absurd"),
    ],
)
def test_what_cannot_be_said_is_said_to_be_so(before: list[float], after: list[float], words: str) -> None:
    found = change(before, after)
    assert (found.p, found.ci) == (None, None)
    assert words in str(found.fault)


@pytest.mark.parametrize("tests", [1, 4, 40])
def test_the_blocks_that_a_claim_takes_are_those_at_which_it_can_be_made(tests: int) -> None:
    def least_p(blocks: int) -> float:
        return float(scipy_stats.mannwhitneyu(range(blocks), range(100, 100 + blocks), method="exact").pvalue)

    blocks = blocks_to_show(tests)
    assert tests * least_p(blocks) < 0.05 <= tests * least_p(blocks - 1)


# --- whose change it is


def of(cells: Sequence[dict[str, Any]], label: str) -> dict[str, Any]:
    (found,) = [cell for cell in cells if cell["label"] == label]
    return found


def test_a_baseline_that_became_faster_makes_no_other_arm_slower() -> None:
    cells = verdicts(sessions(np.random.default_rng(1), more=(-TENTH, 0.0), spread=0.005))
    assert of(cells, "TF")["verdict"] == "faster"
    assert of(cells, "PyTorch")["verdict"] in {"inconclusive", "equivalent"}


def test_an_arm_that_is_the_same_on_record_is_not_blamed_when_the_machine_moved_the_other_way() -> None:
    """The machine became quicker by 12 %; PyTorch 10 % slower. By their own times alone TF would have changed more."""
    pairs = sessions(
        np.random.default_rng(2),
        more=(-0.12, -0.12 + TENTH),
        spread=0.004,
        changed=((), ("framework version: 2.12.1 → 2.13.0",)),
    )
    found = of(verdicts(pairs), "PyTorch")
    assert (found["verdict"], found["by"], found["above"]) == ("slower", "baseline", True)
    assert "the other is the same on record" in found["reason"]


def test_an_arm_that_is_the_same_on_record_and_moved_with_the_machine_points_at_it() -> None:
    """The machine became slower by 3 % between two quiet sessions, and the other arm another one, slower by 10 %."""
    pairs = sessions(
        np.random.default_rng(2), more=(0.03, 0.03 + TENTH), spread=0.003, changed=((), ("framework work: 1.0 → 1.1",))
    )
    cells = verdicts(pairs)
    same, other = of(cells, "TF"), of(cells, "PyTorch")
    assert (same["verdict"], same["by"], same["above"]) == ("slower", "cpu", False)
    assert same["reason"].endswith("; nothing of its own changed on record: the machine, or what arms share")
    assert (other["verdict"], other["above"]) == ("slower", True)
    assert "the machine" not in other["reason"]


def test_an_arm_whose_ratio_moved_too_does_not_point_at_the_machine() -> None:
    cells = verdicts(sessions(np.random.default_rng(1), more=(-TENTH, 0.0), spread=0.005))
    assert of(cells, "TF")["verdict"] == "faster"
    assert "the machine" not in of(cells, "TF")["reason"]


def test_arms_that_changed_alike_point_at_the_machine() -> None:
    cells = verdicts(sessions(np.random.default_rng(3), more=(TENTH, TENTH), spread=0.006))
    assert [cell["verdict"] for cell in cells] == ["slower", "slower"]
    for cell in cells:
        assert cell["reason"].endswith("every arm of the comparison changed alike: the machine, or what they share")


def test_one_arms_change_says_that_the_other_stood_still() -> None:
    pairs = sessions(np.random.default_rng(3), more=(0, TENTH), spread=0.006)
    found = of(verdicts([pairs[0], pairs[1]]), "PyTorch")
    assert found["verdict"] == "slower"
    assert "against TF in the same blocks" in found["reason"] or "its baseline TF shows no change" in found["reason"]


def of_times(threads: int, *, cpu: float, wall: float) -> Pair:
    """One cell whose log times moved by so much, and little else."""
    rng = np.random.default_rng(4)
    moved = [[list(rng.normal(at, 0.005, 12)) for at in (10, 10 + by)] for by in (wall, cpu)]
    return Pair(comparison="c", arms=("a", "a"), label="a", baseline=True, device="cpu", threads=threads,
                wall=(moved[0][0], moved[0][1]), cpu=(moved[1][0], moved[1][1]))  # fmt: skip


def test_threads_that_spend_more_cpu_time_in_the_same_wall_time_are_not_slower() -> None:
    (found,) = verdicts([of_times(2, cpu=0.3, wall=0.0)])
    assert found["verdict"] == "inconclusive"
    assert "wall time went apart from it" in found["reason"]


def test_one_thread_that_does_more_is_slower_though_a_busier_machine_made_it_wait_longer_before() -> None:
    (found,) = verdicts([of_times(1, cpu=0.3, wall=-0.5)])
    assert (found["verdict"], found["by"], found["above"]) == ("slower", "cpu", True)


def test_on_a_gpu_wall_time_is_judged() -> None:
    pairs = sessions(np.random.default_rng(6), spread=0.005, waiting=(0.9, 0.9))
    assert {cell["verdict"] for cell in verdicts(pairs)} <= {"inconclusive", "equivalent"}
    pairs = sessions(np.random.default_rng(6), spread=0.005, waiting=(0.9, 0.9), device="cuda")
    cells = verdicts(pairs)
    assert {(cell["verdict"], cell["by"]) for cell in cells} == {("slower", "wall")}


def test_a_slowdown_below_the_limit_is_reported_and_does_not_fail() -> None:
    pairs = sessions(np.random.default_rng(7), more=(0.04, 0.04), spread=0.003)
    assert [(cell["verdict"], cell["above"]) for cell in verdicts(pairs)] == [("slower", False)] * 2
    assert [cell["above"] for cell in verdicts(pairs, limit=0.02)] == [True, True]
    assert [cell["above"] for cell in verdicts(pairs, limit=None)] == [False, False]


def test_hardly_any_spread_and_no_change_is_equivalent() -> None:
    cells = verdicts(sessions(np.random.default_rng(8), spread=0.002))
    assert [cell["verdict"] for cell in cells] == ["equivalent", "equivalent"]
