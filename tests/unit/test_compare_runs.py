"""Two runs: which cell is which, what the document, the page and the command say of them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from synthetic_run import COMPARISONS, Writer, block, outcome, run_json, steps

from bench.errors import InputError
from bench.history import compare
from bench.history.pairing import match_arms
from bench.report import compare_table

if TYPE_CHECKING:
    from bench.store import StoredRun

LINEAR = "linear_regression.train.eager.5"
CNN = "mnist_cnn.train.eager.64"


@pytest.fixture(autouse=True)
def quick_corrections(monkeypatch: pytest.MonkeyPatch) -> None:
    """statsmodels collects garbage at every call: a fifth of a second, many hundred times here."""
    monkeypatch.setattr("gc.collect", lambda: 0)


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
