"""What may be claimed: words, reasons and caveats, and how often they are wrong, by simulation with fixed seeds."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import stats
from bench.estimate import verdicts
from bench.estimate.course import BEFORE, BEYOND, PARTS, Course
from bench.estimate.verdicts import Corrected, Disturbance, Evidence, Rules, Verdict

Rounds = list[npt.NDArray[np.float64]]

D10 = [0.10, 0.12, 0.09, 0.11, 0.13, 0.08, 0.105, 0.115, 0.095, 0.125]
WIDE = [0.05, -0.04, 0.03, -0.06, 0.02, 0.01, -0.03, 0.04, -0.02, 0.01]
NAMES = ("TF", "PyTorch")


def uncorrected(estimate: stats.Contrast, *, family: int = 1) -> Corrected:
    """Bonferroni, which is Holm's first."""
    p = {name: getattr(estimate, name) for name in ("p", "p_t", "p_equal")}
    return Corrected(**{name: None if value is None else min(1.0, family * value) for name, value in p.items()})


def judged(d: list[float], *, family: int = 1, **rules: object) -> Verdict:
    estimate = stats.contrast(d)
    given = Rules(family=family, names=NAMES, **rules)  # type: ignore[arg-type]
    return verdicts.judge(Evidence(estimate=estimate), corrected=uncorrected(estimate, family=family), rules=given)


def judged_rounds(rounds: Rounds, *, warm_up: float = 0.0) -> Verdict:
    estimate = stats.contrast([stats.block_log_ratio(block) for block in rounds])
    found = Evidence(estimate=estimate, drift=stats.drift(rounds), course=Course.of(rounds, warm_up=warm_up))
    return verdicts.judge(found, corrected=uncorrected(estimate), rules=Rules(names=NAMES))


# --- the ladder


def test_verdicts_climb_the_ladder() -> None:
    rng = np.random.default_rng(5)
    assert judged(list(rng.normal(0.1, 0.01, 12))).word == "faster"
    assert judged(list(rng.normal(-0.1, 0.01, 12))).word == "slower"
    assert judged(list(rng.normal(0.0, 0.005, 12))).word == "equivalent"
    assert judged(list(rng.normal(0.008, 0.002, 12))).word == "small"
    assert judged(WIDE).word == "inconclusive"


def test_no_variance_is_failed() -> None:
    assert judged([0.1] * 10).word == "failed"


def test_holm_can_take_a_difference_away() -> None:
    rng = np.random.default_rng(8)
    d = list(rng.normal(0.06, 0.01, 8))
    assert judged(d, family=1).word == "faster"
    assert judged(d, family=40).word == "inconclusive"


@pytest.mark.parametrize(("mean", "word"), [(0.0, "equivalent"), (0.008, "small")])
def test_holm_can_take_an_equivalence_away(mean: float, word: str) -> None:
    """As many arms that are called equivalent as arms that are called faster: each kind is a family."""
    d = list(np.random.default_rng(21).normal(mean, 0.006, 12))
    estimate = stats.contrast(d)
    assert estimate.p_equal is not None
    family = math.ceil(stats.ALPHA / estimate.p_equal) + 1
    assert judged(d).word == word
    assert "equivalent" not in judged(d, family=family).word
    assert judged(d, family=family).word != "small"


def test_every_kind_of_p_is_corrected_over_the_run() -> None:
    rng = np.random.default_rng(4)
    estimates = [stats.contrast(rng.normal(mean, 0.01, 10)) for mean in (0.0, 0.002, 0.1)]
    corrected = verdicts.correct([*estimates, stats.Contrast(blocks=0)])
    for name in ("p", "p_t", "p_equal"):
        raw = [getattr(one, name) for one in estimates]
        assert [getattr(one, name) for one in corrected] == [*map(pytest.approx, stats.holm(raw)), None]


numbers = st.floats(-400, 400, allow_nan=False)


@given(st.lists(st.one_of(numbers, st.floats()), max_size=12))
@settings(max_examples=100, deadline=None)
def test_nothing_that_leaves_is_nan_or_infinite(d: list[float]) -> None:
    found = stats.contrast(d)
    moved = stats.drift([d, d])
    beside = Disturbance(disturbed=1, cause="steal", every=found, cpu=found)
    evidence = Evidence(estimate=found, drift=moved, course=Course.of([d, d]), disturbance=beside)
    verdict = verdicts.judge(evidence, corrected=uncorrected(found), rules=Rules())
    json.dumps([asdict(found), asdict(verdict)], allow_nan=False)
    for text in (verdict.reason, *(caveat.text for caveat in verdict.caveats)):
        assert not {"nan", "inf"} & set(text.split())


# --- reasons


def test_the_reason_names_the_quicker_side_whichever_it_is() -> None:
    slower, faster = judged([-value for value in D10]).reason, judged(D10).reason
    assert slower.startswith("TF is 1.113 times as fast as PyTorch (1.10")
    assert faster.startswith("PyTorch is 1.113 times as fast as TF (1.10")


@pytest.mark.parametrize(
    ("ratio", "written"),
    [(2, "2.000 times"), (21, "21.0 times"), (1230, "1,230 times")],  # not 21, nor 1.23e+03
)
def test_factors_are_written_as_the_table_writes_them(ratio: float, written: str) -> None:
    assert f"PyTorch is {written} as fast" in judged([math.log(ratio) + value - 0.107 for value in D10]).reason


def test_inconclusive_says_what_it_may_be_and_how_many_more_blocks_it_takes() -> None:
    estimate = stats.contrast(WIDE)
    assert estimate.spread is not None
    needed = stats.blocks_needed(estimate.spread, 0.01)
    assert needed is not None
    reason = judged(WIDE).reason
    assert reason.startswith("PyTorch is anything from 0.975 to 1.028 times as fast as TF (± 2.6 %)")
    assert f"about {needed - 10} more blocks give ± 1 %" in reason


@pytest.mark.parametrize(
    ("d", "family", "why"),
    [
        ([0.03, 0.05, 0.01, 0.06, 0.02, 0.04, -0.01, 0.03, 0.05, 0.02], 20, "but among 20 contrasts chance shows"),
        ([-0.011, 0.036, 0.069, 0.04, 0.036, 0.017, 0.05, -0.045, 0.038, 0.031], 1, "Wilcoxon's signed ranks do not"),
    ],
)
def test_an_interval_without_1_says_why_it_is_no_claim(d: list[float], family: int, why: str) -> None:
    found = judged(d, family=family)
    assert found.word == "inconclusive"
    assert why in found.reason
    assert "chance" not in judged(WIDE, family=20).reason, "an interval that holds 1 needs no excuse"


def test_too_few_blocks_say_how_many_would_do() -> None:
    reason = judged([0.01, -0.02, 0.03, 0.0], family=4).reason
    assert "4 blocks can claim only a plain difference, of over 10 %, any difference takes 8" in reason
    assert "2 blocks can claim nothing, any difference takes 6" in judged([0.01, -0.02]).reason


# --- few blocks


def test_a_factor_that_every_block_shows_is_claimed_of_four() -> None:
    """As a newcomer saw it: 0.0695 in four blocks of fifteen contrasts, `inconclusive`."""
    d = [math.log(0.0695) + shift for shift in (-0.14, 0.16, -0.12, 0.1)]
    found = judged(d, family=15)
    assert found.word == "slower"
    (caveat,) = found.caveats
    assert caveat.kind == "short"
    assert "a smaller difference takes 10 blocks" in caveat.text
    assert caveat.figures["blocks"] == 4


@pytest.mark.parametrize(
    "d",
    [
        [0.6, 0.62, 0.61],  # three blocks
        [0.09, 0.11, 0.10, 0.09],  # under a tenth
        [0.6, 0.1, 1.2, 0.2],  # 99 % sure of nothing
        [0.5, 0.52, 0.51, -0.01],  # one block says otherwise
    ],
)
def test_few_blocks_claim_nothing_that_is_not_plain(d: list[float]) -> None:
    assert judged(d, family=15).word == "inconclusive"


def test_the_rule_for_few_blocks_is_for_few_blocks_alone() -> None:
    """Where Wilcoxon could have agreed and did not, the t test alone claims nothing."""
    d = [0.3, 0.31, 0.29, 0.3, 0.32, 0.28, 0.3, 0.31]
    estimate = stats.contrast(d)
    corrected = Corrected(p=0.2, p_t=estimate.p_t, p_equal=1.0)
    found = verdicts.judge(Evidence(estimate=estimate), corrected=corrected, rules=Rules(family=2))
    assert found.word == "inconclusive"


def skewed(rng: np.random.Generator, blocks: int, sd: float) -> npt.NDArray[np.float64]:
    drawn = rng.exponential(1.0, blocks) - 1.0
    return sd * drawn


def two_modes(rng: np.random.Generator, blocks: int, sd: float) -> npt.NDArray[np.float64]:
    return sd * (2.0 * rng.integers(0, 2, blocks) - 1.0 + 0.1 * rng.standard_normal(blocks))


def autocorrelated(rng: np.random.Generator, blocks: int, sd: float) -> npt.NDArray[np.float64]:
    drawn = rng.standard_normal(blocks)
    for k in range(1, blocks):
        drawn[k] = 0.5 * drawn[k - 1] + math.sqrt(0.75) * drawn[k]
    return sd * drawn


SCATTER: dict[str, Callable[[np.random.Generator, int, float], npt.NDArray[np.float64]]] = {
    "normal": lambda rng, blocks, sd: rng.normal(0, sd, blocks),
    "heavy tails": lambda rng, blocks, sd: sd * rng.standard_t(3, blocks),
    "autocorrelated": autocorrelated,
    "skewed": skewed,
    "two modes": two_modes,
}


@pytest.mark.parametrize("scatter", SCATTER)
@pytest.mark.parametrize("sd", [0.02, 0.10])
@pytest.mark.second
def test_few_blocks_of_equal_arms_are_hardly_ever_called_plainly_different(scatter: str, sd: float) -> None:
    """In a family so large that Wilcoxon cannot agree; p raw, as if each contrast were a family of its own."""
    rng, wrong = np.random.default_rng(31), 0
    for blocks in rng.integers(4, 9, 800):
        estimate = stats.contrast(SCATTER[scatter](rng, int(blocks), sd))
        evidence, rules = Evidence(estimate=estimate), Rules(family=100)
        word = verdicts.judge(evidence, corrected=Corrected(p=1.0, p_t=estimate.p_t, p_equal=1.0), rules=rules).word
        wrong += word != "inconclusive"
    assert wrong / 800 <= 0.01


def test_a_factor_of_fourteen_is_found_in_four_blocks_of_fifteen_contrasts() -> None:
    rng = np.random.default_rng(32)
    words = Counter(judged(list(rng.normal(-math.log(14), 0.10, 4)), family=15).word for _ in range(300))
    assert words["slower"] / 300 >= 0.97


# --- drift


def block(rng: np.random.Generator, course: npt.NDArray[np.float64], *, sd: float = 0.015) -> npt.NDArray[np.float64]:
    """Log ratios of one block of rounds: its own shift, the course, and noise of every round."""
    shifted: npt.NDArray[np.float64] = rng.normal(0, sd) + course + rng.normal(0, 0.02, len(course))
    return shifted


X = np.linspace(0, 1, 16)
COURSES = {
    "through the block": (-0.03 * X, 0.0),
    "only late": (-0.03 * np.maximum(0, 3 * X - 2), 0.0),
    "only midway": (-0.03 * ((X > 1 / 3) & (X < 2 / 3)), 0.0),
    "after a long warm-up": (-0.03 * (X + 1), 1.0),
}


@pytest.mark.parametrize("course", COURSES)
@pytest.mark.second
def test_an_arm_that_slows_is_hardly_ever_called_slower(course: str) -> None:
    rng, (moves, warm_up) = np.random.default_rng(41), COURSES[course]
    runs = 400
    words = Counter(judged_rounds([block(rng, moves) for _ in range(8)], warm_up=warm_up).word for _ in range(runs))
    assert (words["faster"] + words["slower"]) / runs <= stats.ALPHA


def test_a_difference_beside_a_drift_is_claimed_with_its_caveat() -> None:
    rng = np.random.default_rng(42)
    found = [judged_rounds([block(rng, -0.223 - 0.03 * X) for _ in range(10)]) for _ in range(100)]
    assert sum(one.word == "slower" for one in found) >= 98
    marked = [one for one in found if any(caveat.kind == "drift" for caveat in one.caveats)]
    assert len(marked) >= 90
    assert "PyTorch slows by" in marked[0].caveats[0].text


def test_steady_differences_are_found_and_carry_no_caveat() -> None:
    rng = np.random.default_rng(43)
    found = [judged_rounds([block(rng, 0.05 + 0.0 * X) for _ in range(8)]) for _ in range(200)]
    assert sum(one.word == "faster" for one in found) / 200 >= 0.97
    assert sum(bool(one.caveats) for one in found) / 200 <= 0.05


def test_what_fails_is_named_by_its_place() -> None:
    rng = np.random.default_rng(44)
    late = [block(rng, 0.02 * (X > 2 / 3), sd=0.002) for _ in range(10)]
    course = Course.of(late)
    assert course.failing_difference(1.0)[0] == PARTS[0]
    reason = judged_rounds(late).reason
    assert f"not sure {PARTS[0]}" in reason


def test_a_third_that_is_too_uncertain_is_not_blamed_on_a_drift_that_is_not_there() -> None:
    estimate = stats.contrast(D10)
    uncertain = np.array([[d, d + 0.5 * (-1) ** k, d] for k, d in enumerate(D10)])
    steady = stats.Drift(mean=0.0004, ci=(-0.012, 0.013))
    evidence = Evidence(estimate=estimate, drift=steady, course=Course(thirds=uncertain))
    found = verdicts.judge(evidence, corrected=uncorrected(estimate), rules=Rules(names=NAMES))
    assert found.word == "inconclusive"
    assert "yet that is not sure in their middle third; more blocks would tell: raise blocks" in found.reason
    assert "slows" not in found.reason


def test_where_no_more_blocks_will_come_the_reason_says_why() -> None:
    found = judged(WIDE, remedy="pytorch failed in 3 blocks in a row: exit 3")
    assert found.reason.endswith("pytorch failed in 3 blocks in a row: exit 3")


def test_a_line_is_followed_to_the_warm_up_and_past_the_end() -> None:
    exact = [0.01 + 0.02 * X + shift for shift in (0.0, 1e-4, -1e-4, 2e-4)]
    assert Course.of(exact).failing_difference(1.0) == []
    assert Course.of(exact, warm_up=1.0).failing_difference(1.0) == [BEFORE]
    falling = [0.03 - 0.022 * X + shift for shift in (0.0, 1e-4, -1e-4, 2e-4)]
    assert Course.of(falling).failing_difference(1.0) == [BEYOND]
    assert Course.of(falling).failing_difference(-1.0)[:3] == list(PARTS)


def test_an_equivalence_must_hold_in_each_third() -> None:
    rng = np.random.default_rng(45)
    tilted = [block(rng, 0.06 * (X - 0.5), sd=0.002) for _ in range(10)]
    assert judged_rounds(tilted).word in {"no_steady_state", "degrading"}
    assert judged_rounds([block(rng, 0.0 * X, sd=0.002) for _ in range(12)]).word == "equivalent"


def test_blocks_of_two_rounds_have_no_thirds_and_fail_nothing() -> None:
    assert Course.of([np.array([0.1, 0.2])] * 5).failing_difference(1.0) == []


# --- disturbance


def disturbed(
    d: list[float], every: list[float], cpu: list[float] | None, *, family: int = 1, count: int = 3
) -> Verdict:
    estimate = stats.contrast(d)
    beside = Disturbance(
        disturbed=count, cause="waiting", every=stats.contrast(every),
        cpu=None if cpu is None else stats.contrast(cpu),
    )  # fmt: skip
    evidence = Evidence(estimate=estimate, disturbance=beside)
    return verdicts.judge(evidence, corrected=uncorrected(estimate, family=family), rules=Rules(names=NAMES))


def test_a_claim_that_every_attempt_and_the_cpu_bear_out_stands_with_its_figures() -> None:
    """As a newcomer saw it: 1.66, 3 of 11 blocks disturbed, `invalid`."""
    d = [0.5 + shift for shift in (-0.03, 0.02, 0.01, -0.02, 0.03, -0.01, 0.02, -0.02)]
    found = disturbed(d, [*d, 0.46, 0.55, 0.51], [value - 0.02 for value in d])
    assert found.word == "faster"
    (caveat,) = found.caveats
    assert caveat.kind == "disturbed"
    assert caveat.text.startswith("3 of 11 blocks disturbed (waiting); ratio 1.64")
    assert {name: caveat.figures[name] is None for name in ("counted", "every_attempt", "cpu_time")} == {
        "counted": False, "every_attempt": False, "cpu_time": False,
    }  # fmt: skip
    assert (caveat.figures["disturbed"], caveat.figures["attempts"]) == (3, 11)


@pytest.mark.parametrize(
    ("every", "cpu", "objection"),
    [
        ([0.0, 0.01, -0.01, 0.02, -0.02, 0.1, 0.12, 0.11], None, "every attempt does not show it"),
        ([*D10, *[0.01, 0.015, 0.02, 0.012] * 4], None, "by every attempt the difference is"),
        (D10, [0.0, 0.01, -0.01, 0.005, 0.002, -0.004], "CPU time does not show it"),
        (D10, [0.30, 0.31, 0.29, 0.30, 0.32, 0.28], "by CPU time the difference is another one"),
        (D10, [-value for value in D10], "CPU time does not show it"),
        (D10, None, "every block was disturbed and nothing else can bear it out"),
    ],
)
def test_a_claim_that_a_disturbance_may_have_made_is_invalid(
    every: list[float], cpu: list[float] | None, objection: str
) -> None:
    found = disturbed(D10, every, cpu)
    assert found.word == "invalid"
    assert objection in found.reason
    assert "stop what else runs" in found.reason


EQUAL = [0.002, -0.003, 0.001, 0.004, -0.002, 0.0, 0.003, -0.001, 0.002, -0.002]


@pytest.mark.parametrize(("cpu", "word"), [(0.001, "equivalent"), (0.03, "invalid")])
def test_equivalence_must_be_borne_out_too(cpu: float, word: str) -> None:
    found = disturbed(EQUAL, [*EQUAL, 0.004, 0.003], [value + cpu for value in EQUAL])
    assert found.word == word
    if word == "invalid":
        assert "CPU time puts them 3.1 % apart" in found.reason


def test_nothing_claimed_is_nothing_refused() -> None:
    found = disturbed(WIDE, WIDE, [0.3, 0.31, 0.29, 0.3])
    assert found.word == "inconclusive"
    assert [caveat.kind for caveat in found.caveats] == ["disturbed"]


def test_arms_of_which_one_is_disturbed_in_every_block_are_not_called_different() -> None:
    """Half of it seen: one arm loses a tenth in every block, and CPU time is what tells."""
    rng = np.random.default_rng(51)
    words: Counter[str] = Counter()
    for _ in range(300):
        d = rng.normal(-0.10, 0.02, 16)
        cpu = rng.normal(0.0, 0.015, 16)
        words[disturbed(list(d[:8]), list(d), list(cpu), count=8).word] += 1
    assert (words["faster"] + words["slower"]) / 300 <= 0.01
