"""Two runs of the same program find nothing, a tenth more work is found, and a claim is laid to the right arm."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats as scipy_stats
from synthetic_run import COMPARISONS, Writer, block, outcome, run_json, steps

from bench.errors import InputError
from bench.history import compare
from bench.history.change import SESSION, blocks_to_show, change
from bench.history.pairing import CPU, WALL, Pair, match_arms
from bench.report import compare_table

if TYPE_CHECKING:
    from bench.store import StoredRun

TENTH = math.log(1.10)
LINEAR = "linear_regression.train.eager.5"
CNN = "mnist_cnn.train.eager.64"


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


# --- which cell is which


def entry(*arms: tuple[str, dict[str, Any]], baseline: str) -> dict[str, Any]:
    return {"compare": ["framework"], "baseline": baseline, "arms": {name: {"framework": of} for name, of in arms}}


def test_arms_are_matched_by_id_and_then_by_framework() -> None:
    before = entry(("tf", {"name": "tensorflow"}), ("pt-1", {"name": "pytorch", "version": "1"}), baseline="tf")
    after = entry(("tf", {"name": "tensorflow"}), ("pt-2", {"name": "pytorch", "version": "2"}), baseline="tf")
    assert match_arms(before, after) == [("tf", "tf"), ("pt-1", "pt-2")]


def test_several_versions_are_matched_in_their_order_with_the_baseline_first() -> None:
    before = entry(("a", {"name": "x", "version": "1"}), ("b", {"name": "x", "version": "2"}), baseline="b")
    after = entry(("c", {"name": "x", "version": "3"}), ("d", {"name": "x", "version": "4"}), baseline="c")
    assert match_arms(before, after) == [("a", "d"), ("b", "c")]


def test_versions_whose_numbers_differ_are_not_matched() -> None:
    before = entry(("a", {"name": "x", "version": "1"}), ("b", {"name": "x", "version": "2"}), baseline="a")
    after = entry(("c", {"name": "x", "version": "3"}), baseline="c")
    assert match_arms(before, after) == []


# --- whole runs


def stored(folder: Path, *, factors: dict[str, float] | None = None, first: int = 0, **header: Any) -> StoredRun:
    """Nine blocks of two comparisons; factors on an arm's time; another `first` draws other noise."""
    plain = {**run_json(), **header}
    plain["comparisons"] = {name: plain["comparisons"][name] for name in (LINEAR, CNN)}
    writer = Writer(folder, plain)
    for name in (LINEAR, CNN):
        writer.certified(name)
        times = {arm: time * (factors or {}).get(arm, 1.0) for arm, time in COMPARISONS[name][2].items()}
        for number in range(9):
            writer.add(block(name, number, {arm: outcome(arm) for arm in times}), steps(times, first + number))
    return writer.read()


def test_the_document_holds_every_cell_with_its_evidence_and_no_nan(tmp_path: Path) -> None:
    document = compare.compare(stored(tmp_path / "a"), stored(tmp_path / "b", first=50), fail_above=0.05)
    json.dumps(document, allow_nan=False)
    assert document["schema"] == "bench.compare/1"
    assert document["failed"] is False
    assert [cell["id"] for cell in document["cells"]] == [
        f"{name}/{arm}" for name in (LINEAR, CNN) for arm in ("tensorflow", "pytorch")
    ]
    for cell in document["cells"]:
        assert cell["verdict"] in {"inconclusive", "equivalent"}
        assert cell["evidence"]["own"]["blocks"] == [9, 9]
        assert (cell["evidence"]["against_baseline"]["wall"] is None) == cell["id"].endswith("tensorflow")
        assert 0 < cell["cpu_ms"]["before"] < cell["step_ms"]["before"] * 1.1
    assert document["changed"] == []
    assert len(document["unseen"]) >= 3


def test_a_run_compared_with_itself_did_not_change(tmp_path: Path) -> None:
    run = stored(tmp_path / "a")
    document = compare.compare(run, run, fail_above=0.0)
    assert document["failed"] is False
    assert [cell["change"] for cell in document["cells"]] == [1.0] * 4


def test_what_differs_on_record_is_listed_where_it_belongs(tmp_path: Path) -> None:
    before = stored(tmp_path / "a")
    environment = {**run_json()["environment"], "kernel": "6.9", "load_average_1min": 3.0}
    after = stored(tmp_path / "b", commit="fedcba9876543210", launcher="local", environment=environment)
    for record in after.blocks:
        record["arms"]["pytorch"]["versions"] = {"torch": "2.14.0"}
    after.run["comparisons"][LINEAR]["arms"]["pytorch"]["workload"]["n"] = 6
    after.run["comparisons"][LINEAR]["arms"]["tensorflow"]["workload"]["n"] = 6
    document = compare.compare(before, after)
    assert "kernel: 6.1 → 6.9" in document["changed"]
    assert "launcher: docker → local" in document["changed"]
    assert "commit: 0123456789ab → fedcba987654" in document["changed"]
    assert [one["changed"] for one in document["comparisons"]] == [["workload n: 5 → 6"], []]
    assert {cell["id"]: cell["changed"] for cell in document["cells"]} == {
        f"{LINEAR}/tensorflow": [],
        f"{LINEAR}/pytorch": ["version torch: 2.13.0 → 2.14.0"],
        f"{CNN}/tensorflow": [],
        f"{CNN}/pytorch": ["version torch: 2.13.0 → 2.14.0"],
    }


def test_a_cell_of_one_run_alone_is_missing_with_the_reason(tmp_path: Path) -> None:
    before, after = stored(tmp_path / "a"), stored(tmp_path / "b", first=50)
    del after.run["comparisons"][CNN]
    after.blocks[:] = [record for record in after.blocks if record["comparison"] == LINEAR]
    for certificate in after.certificates:
        certificate |= {"status": "failed", "reason": "the losses differ"}
    document = compare.compare(before, after, fail_above=0.05)
    assert {cell["verdict"] for cell in document["cells"]} == {"missing"}
    reasons = {cell["id"]: cell["reason"] for cell in document["cells"]}
    assert reasons[f"{LINEAR}/pytorch"] == "the run after: invalid: parity failed: the losses differ"
    assert reasons[f"{CNN}/pytorch"] == "its comparison is in the run before alone"
    assert any("4 cells" in line for line in document["unseen"])
    assert document["failed"] is False


def test_runs_with_nothing_in_common_are_refused(tmp_path: Path) -> None:
    before, after = stored(tmp_path / "a"), stored(tmp_path / "b")
    after.run["comparisons"] = {"other": after.run["comparisons"][CNN]}
    after.blocks.clear()
    with pytest.raises(InputError, match="no comparison in common"):
        compare.compare(before, after)


def test_too_few_blocks_are_said_to_show_nothing(tmp_path: Path) -> None:
    before, after = stored(tmp_path / "a"), stored(tmp_path / "b", factors={"pytorch": 3.0}, first=50)
    for run in (before, after):
        run.blocks[:] = [record for record in run.blocks if record["block"] < 3]
    document = compare.compare(before, after, fail_above=0.05)
    assert document["failed"] is False
    assert any("no change of theirs can be shown" in line for line in document["unseen"])


def test_a_gate_that_could_not_have_shown_a_slowdown_says_so(tmp_path: Path) -> None:
    before, after = stored(tmp_path / "a"), stored(tmp_path / "b", first=50)
    strict, loose = (compare.compare(before, after, fail_above=limit) for limit in (0.001, 0.5))
    assert "4 of 4 cells could not have shown one" in str(compare_table.outcome(strict))
    assert any("a slowdown of 0.1 % goes unseen" in line for line in strict["unseen"])
    assert compare_table.outcome(loose) == "no slowdown of more than 50 % is shown"


def test_the_page_and_the_table_tell_verdict_change_and_blind_spots(tmp_path: Path) -> None:
    from rich.console import Console

    before, after = stored(tmp_path / "a"), stored(tmp_path / "b", factors={"pytorch": 1.6}, first=50)
    document = compare.compare(before, after, fail_above=0.05)
    assert document["failed"] is True
    console = Console(record=True, width=100, file=io.StringIO())
    compare_table.render(document, console)
    for text in (compare_table.markdown(document), console.export_text()):
        for word in ("slower", "PyTorch", "two sessions", "nothing on record", "2 of 4 cells are slower"):
            assert word in " ".join(text.split())


# --- the command


def bench(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "compare", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("percent", ["soon", "-5%", "5", "nan%", "1e9%", "%"])
def test_a_nonsense_percentage_is_one_line_and_exit_2(tmp_path: Path, percent: str) -> None:
    done = bench("a", "b", f"--fail-above={percent}", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"bench: --fail-above {percent}: not a percentage")
    assert done.stderr.count("\n") == 1


def test_what_is_no_run_is_one_line_and_exit_2(tmp_path: Path) -> None:
    stored(tmp_path / "runs" / "one")
    done = bench("one", "two", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("bench: two: no run here")


def test_the_gate_exits_1_and_prints_the_document_all_the_same(tmp_path: Path) -> None:
    stored(tmp_path / "runs" / "one")
    stored(tmp_path / "runs" / "two", factors={"pytorch": 1.6}, first=50)
    reported = bench("one", "two", "--format", "json", cwd=tmp_path)
    assert reported.returncode == 0, reported.stderr
    done = bench("one", "two", "--fail-above", "5%", "--format", "json", cwd=tmp_path)
    assert done.returncode == 1
    assert json.loads(done.stdout)["failed"] is True
    assert done.stderr.startswith("bench: 2 of 4 cells are slower by more than 5 %")
