"""`bench validate`: parts that are kept, rows that can fail, and the case for lockstep as arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import machine_time
import numpy as np
import pytest
from machine_time import Cycle, cost_ratio
from rich.console import Console

from bench.errors import GateError, InputError
from bench.validate import observer, processes, show, suite
from bench.validate.campaign import LONG, SHORT, noisy
from bench.validate.row import Row, at_least, at_most, not_above, not_below

GOOD = Row(name="good", n=3, value=0.5, ci=(0.4, 0.6), goal="≥ 40 %", outcome="passed", unit="share")
BAD = Row(
    name="bad", n=3, value=2500.0, ci=(2400.0, 2600.0), goal="≤ 2000 ns", outcome="failed", unit="ns", detail="slow"
)
OPEN = Row(name="open", n=3, value=0.9, ci=(0.7, 0.99), goal="≥ 93 %", outcome="undecided", unit="share", detail="more")


def begun(folder: Path, **parts: list[Row]) -> Path:
    """A validation whose parts are finished already."""
    made = suite.begin(full=False, out=folder, only=list(parts), seed=0)
    for part, rows in parts.items():
        (made / f"{part}.json").write_text(json.dumps({"rows": [row.to_json() for row in rows]}))
    return made


def test_a_finished_part_is_read_and_not_measured_again(tmp_path: Path) -> None:
    said: list[str] = []
    report = suite.carry_on(begun(tmp_path, observer=[GOOD], real_steps=[BAD]), said.append)
    assert report.rows == (GOOD, BAD)
    assert said == []


def test_one_failed_test_fails_the_validation_and_is_named(tmp_path: Path) -> None:
    report = suite.carry_on(begun(tmp_path, observer=[GOOD, BAD]), print)
    with pytest.raises(GateError, match="1 of 2 tests failed: bad"):
        report.gate()
    suite.carry_on(begun(tmp_path, observer=[GOOD]), print).gate()


def test_a_validation_that_the_machine_left_undecided_has_not_failed_and_has_not_passed(tmp_path: Path) -> None:
    report = suite.carry_on(begun(tmp_path, observer=[GOOD, OPEN]), print)
    report.gate()
    assert report.told == "1 passed, 1 undecided, 0 failed"
    plain = report.to_json()
    assert (plain["outcome"], plain["passed"]) == ("undecided", None)
    assert plain["counts"] == {"passed": 1, "undecided": 1, "failed": 0}
    assert [(test["outcome"], test["passed"]) for test in plain["tests"]] == [("passed", True), ("undecided", None)]
    worse = suite.carry_on(begun(tmp_path, observer=[OPEN, BAD]), print)
    assert worse.to_json()["passed"] is False
    with pytest.raises(GateError, match=r"1 of 2 tests failed: bad$"):
        worse.gate()


@pytest.mark.parametrize("row", [GOOD, BAD])
def test_a_row_that_an_earlier_version_kept_is_read(row: Row, tmp_path: Path) -> None:
    folder = begun(tmp_path, observer=[row])
    kept = json.loads((folder / "observer.json").read_text())
    del kept["rows"][0]["outcome"]
    (folder / "observer.json").write_text(json.dumps(kept))
    assert suite.carry_on(folder, print).rows == (row,)


def test_published_rows_are_read_as_they_were() -> None:
    published = sorted((Path(__file__).parents[2] / "results").glob("validation-*/*.json"))
    tests = [test for path in published for test in json.loads(path.read_text())["tests"]]
    assert tests
    assert [Row.from_json(test).to_json()["passed"] for test in tests] == [test["passed"] for test in tests]


def test_json_has_one_object_a_test_with_the_promised_keys(tmp_path: Path) -> None:
    plain = suite.carry_on(begun(tmp_path, observer=[GOOD]), print).to_json()
    (test,) = json.loads(json.dumps(plain, allow_nan=False))["tests"]
    assert {"name", "n", "value", "ci", "goal", "passed", "outcome"} <= set(test)
    assert Row.from_json(test) == GOOD


def test_the_page_and_the_table_say_value_interval_and_verdict(tmp_path: Path) -> None:
    report = suite.carry_on(begun(tmp_path, observer=[GOOD, BAD, OPEN]), print)
    page = show.markdown(report)
    assert "| good | 3 | 50 % | 40 % to 60 % | ≥ 40 % | passed |" in page
    assert "| bad | 3 | 2500 ns | 2400 ns to 2600 ns | ≤ 2000 ns | **failed** |" in page
    assert "| open | 3 | 90 % | 70 % to 99 % | ≥ 93 % | undecided |" in page
    assert "1 passed, 1 undecided, 1 failed." in page
    assert "- bad: slow" in page
    console = Console(width=120, record=True, file=(tmp_path / "out").open("w"))
    show.print_table(report, console)
    text = console.export_text()
    assert "✗ failed" in text
    assert "? undecided" in text
    assert "undecided: open: more" in text
    console.file.close()


def test_an_unknown_part_and_a_folder_without_a_validation_are_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='part "observers" is unknown; choose observer, real_steps'):
        suite.begin(full=False, out=tmp_path, only=["observers"], seed=0)
    with pytest.raises(InputError, match=r"no validate\.json here"):
        suite.carry_on(tmp_path, print)
    (tmp_path / "validate.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        suite.carry_on(tmp_path, print)


def test_goals_on_a_share_are_held_by_the_end_of_the_interval_that_they_name() -> None:
    assert not_above("", 9, 100, 0.05).outcome == "passed"  # 4.2 % at the lower end
    assert not_above("", 12, 100, 0.05).outcome == "failed"
    assert not_below("", 18, 20, 0.95).outcome == "passed"
    assert not_below("", 14, 20, 0.95).outcome == "failed"
    assert at_most("", 0, 20, 0.0).outcome == "passed"
    assert at_most("", 1, 20, 0.0).outcome == "failed"
    assert at_least("", 0, 0, 0.0).outcome == "undecided"  # nothing was measured


def contrast(**changed: Any) -> dict[str, Any]:
    """10 % more work in eight calm blocks, found."""
    calm = {"p": 0.008, "ratio": 0.91, "blocks": 8, "spread": 0.01, "verdict": "slower", "caveats": []}
    return calm | changed


def beside_others(disturbed: int, attempts: int) -> list[dict[str, Any]]:
    return [{"kind": "disturbed", "text": "", "figures": {"disturbed": disturbed, "attempts": attempts}}]


@pytest.mark.parametrize(("calm", "tried"), [(1.0, 44), (0.5, 80), (0.3, 135), (0.2, 44), (0.0, 44)])
def test_calm_contrasts_are_looked_for_only_as_long_as_enough_can_be_found(
    monkeypatch: pytest.MonkeyPatch, calm: float, tried: int
) -> None:
    """Of at most four times as many as are wanted; a machine that leaves fewer than a quarter is not asked again."""
    asked: list[int] = []

    def campaign(name: str, pairs: list[Any], **_: Any) -> list[dict[str, Any]]:
        before = sum(asked)
        asked.append(len(pairs))
        places = range(before, before + len(pairs))
        return [contrast(spread=0.01 if int((i + 1) * calm) > int(i * calm) else 0.05) for i in places]

    monkeypatch.setattr(processes, "campaign", campaign)
    found = processes._slowed(1.10, 6, 40, {})
    assert len(found) == sum(asked) == tried


@pytest.mark.parametrize(("left", "tried"), [(1.0, 102), (0.9, 111), (0.4, 102)])
def test_equal_arms_are_measured_anew_where_most_are_left(
    monkeypatch: pytest.MonkeyPatch, left: float, tried: int
) -> None:
    asked: list[int] = []

    def campaign(name: str, pairs: list[Any], **_: Any) -> list[dict[str, Any]]:
        asked.append(len(pairs))
        lost = {"kind": "disturbed", "figures": {"attempts": 8}}
        kept = round(left * len(pairs))
        return [
            contrast(p=0.5, ci=[0.9, 1.1], blocks_repeated=0) | ({} if i < kept else {"caveats": [lost]})
            for i in range(len(pairs))
        ]

    monkeypatch.setattr(processes, "campaign", campaign)
    list(processes.same(full=False, launcher="local", out=Path(), seed=0))
    assert sum(asked) == tried


def test_power_is_judged_where_all_blocks_were_calm_and_none_of_them_was_lost() -> None:
    spoiled = contrast(blocks=12, p=0.3, caveats=beside_others(9, 12))  # nine of the twelve that count
    noisy_one, short = contrast(spread=0.02, p=0.2), contrast(blocks=5, p=0.0625)
    row = processes._power(1.1, 8, [contrast(), contrast(), spoiled, noisy_one, short], 0.999, wanted=2)
    assert (row.n, row.value, row.outcome) == (2, 1.0, "passed")
    assert "of all 5, 2 found" in row.detail
    assert "2 not judged: the machine spoiled too many of their blocks" in row.detail
    missed = processes._power(1.1, 8, [contrast(), contrast(p=0.2)], 0.999, wanted=2)
    assert (missed.n, missed.value, missed.outcome) == (2, 0.5, "failed")
    assert processes._power(1.1, 8, [spoiled], 0.999, wanted=2).outcome == "undecided", "nothing was looked at"
    few = processes._power(1.1, 8, [contrast(), contrast(), noisy_one], 0.999, wanted=40)
    assert (few.outcome, few.value) == ("undecided", 1.0), "two calm contrasts are no forty"


def test_contrasts_of_which_disturbed_blocks_count_are_no_evidence_of_the_harness() -> None:
    repeated = contrast(p=0.01, blocks=8, blocks_repeated=4, caveats=beside_others(4, 12))  # left out, and repeated
    counted = contrast(p=0.01, blocks=12, blocks_repeated=9, caveats=beside_others(9, 12))
    row = processes._false_positives([repeated, counted, counted], full=False, wanted=1)
    assert (row.n, row.value) == (1, 1.0)
    covered = processes._recovery([(one | {"ci": (0.5, 0.6)}, 1.0) for one in (repeated, counted)], full=False)
    assert covered.n == 1


def test_false_positives_in_full_are_held_by_both_ends() -> None:
    def row(hits: int, n: int) -> Row:
        contrasts = [contrast(p=0.01 if k < hits else 0.5, blocks_repeated=0) for k in range(n)]
        return processes._false_positives(contrasts, full=True, wanted=n)

    assert row(38, 1020).outcome == "passed"
    assert row(60, 1020).outcome == "undecided"  # 4.5 to 7.5 %
    assert row(80, 1020).outcome == "failed"


@pytest.mark.parametrize(
    ("ratio", "half", "said"),
    [(0.5, 0.01, "passed"), (0.5, None, "undecided"), (0.485, 0.02, "undecided"), (0.47, 0.005, "failed")],
)
def test_twice_the_work_is_judged_by_its_interval(
    ratio: float, half: float | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled: dict[str, Any] = {"ratio": None, "ci": None, "blocks": 2, "caveats": []}
    ci = (ratio * (1 - (half or 0)), ratio * (1 + (half or 0)))
    measured = {"ratio": ratio, "ci": ci, "blocks": 12, "caveats": []}
    monkeypatch.setattr(processes, "campaign", lambda *args, **how: [measured if half else spoiled])
    assert processes._linearity({}).outcome == said
    beside = {"caveats": beside_others(disturbed=9, attempts=12)}
    monkeypatch.setattr(processes, "campaign", lambda *args, **how: [(measured if half else spoiled) | beside])
    assert processes._linearity({}).outcome == "undecided", "what the machine did is no evidence of the harness"


def cycles(spreads: dict[str, float], seconds: dict[str, float], count: int = 400) -> list[Cycle]:
    generator = np.random.default_rng(0)
    drawn = {name: generator.normal(0.1, spread, count) for name, spread in spreads.items()}
    return [Cycle(log_ratio={name: float(drawn[name][k]) for name in drawn}, seconds=seconds) for k in range(count)]


def test_machine_time_is_variance_times_seconds() -> None:
    found = cycles(
        {"one after the other": 0.10, "interleaved": 0.04, "lockstep": 0.02},
        {"one after the other": 30.0, "interleaved": 30.0, "lockstep": 40.0},
    )
    value, (low, high) = cost_ratio(found, "one after the other")
    assert low < 25 * 30 / 40 < high
    assert value == pytest.approx(25 * 30 / 40, rel=0.25)
    assert cost_ratio(found, "lockstep")[0] == 1


def test_a_design_that_is_no_dearer_than_lockstep_fails_the_row() -> None:
    same = dict.fromkeys(machine_time.DESIGNS, 0.02)
    found = cycles(same, dict.fromkeys(same, 30.0))
    assert machine_time._row("x", found, "one after the other", goal=10.0).outcome == "failed"
    few = machine_time._row("x", found[:12], "one after the other", goal=5.0)
    assert few.outcome == "undecided", "twelve cycles neither show nor exclude it"


def test_two_noisy_arms_have_the_paired_spread_that_was_asked_for() -> None:
    from workloads.stub.trial import _noise

    sd = float(noisy(0.015)["noise"])  # type: ignore[arg-type]
    generator = np.random.default_rng(0)
    factors = []
    with pytest.MonkeyPatch.context() as patch:
        for padding in generator.integers(0, 4096, 2000):
            patch.setenv("BENCH_PADDING", "x" * int(padding))
            factors.append(np.log(_noise(1, sd)))
    assert np.std(factors) * np.sqrt(2) == pytest.approx(0.015, rel=0.06)


def test_the_slowing_of_an_arm_is_spread_over_all_its_steps() -> None:
    assert SHORT.measured_steps == 7 * 6
    assert LONG.measured_steps == 240 * 4


def test_a_loop_that_costs_microseconds_fails_the_observer_s_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from workloads.stub.trial import StubTrial

    monkeypatch.setattr(observer, "_EMPTY_REPEATS", 8)
    monkeypatch.setattr(observer, "_EMPTY_STEPS", 200)
    lean = observer._empty_step("step")
    assert lean.value is not None
    kept = StubTrial._steps

    def logging(self: StubTrial, count: int) -> list[int]:
        for _ in range(count):
            sum(range(4000))  # tens of microseconds a step, on any machine
        return kept(self, count)

    monkeypatch.setattr(StubTrial, "_steps", logging)
    assert observer._empty_step("step").outcome == "failed"


def test_a_step_that_the_harness_lengthens_is_not_equivalent() -> None:
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 0.05, 1200)
    assert observer.equivalence("same", list(noise), "").outcome == "passed"
    assert observer.equivalence("one percent", list(noise - 0.01), "").outcome == "failed"
    few = observer.equivalence("same, few", list(noise[:40]), "pairs")
    assert few.outcome == "undecided"
    assert few.detail.startswith("pairs; some ")
    assert few.detail.endswith("of them, or a calmer machine would decide")


def test_times_that_never_differ_were_not_measured() -> None:
    row = observer.equivalence("constant", [0.001] * 60, "")
    assert row.outcome == "failed"
    assert "without any variance" in row.detail
