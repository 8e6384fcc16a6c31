"""A plan lists what the seed fixes, predicts the rest from an earlier run, and guesses nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from synthetic_run import Writer, block, outcome, run_json, steps

from bench import stats
from bench.history import forecast as prediction
from bench.history.forecast import Evidence
from bench.matrix.matrix import Budget, Matrix, load
from bench.planning import schedule
from bench.store import read

if TYPE_CHECKING:
    from bench.store import StoredRun

PUBLISHED = sorted((Path(__file__).parents[2] / "results").glob("default-*"))
MATRIX = """\
name: small
axes: {workload: [{name: linear_regression, preset: classic}, mnist_cnn], batch_size: [32], device: [cpu]}
budget: {half_width: 0.02, max_blocks: 30, per_comparison: 10m, total: 1h}
seed: 5
"""
BLOCK_S = 12.0  # as synthetic_run has it
PROLOGUE_S = 20.0


@pytest.fixture
def matrix(tmp_path: Path) -> Matrix:
    (tmp_path / "small.yaml").write_text(MATRIX)
    return load(str(tmp_path / "small.yaml")).with_options(launcher="local")


def earlier(folder: Path, matrix: Matrix, *, blocks: int = 8, spoiled: int = 0, prologue: bool = True) -> StoredRun:
    """A run of `matrix` with so many valid blocks of each comparison, and so many spoiled ones before them."""
    header = {**run_json(), "id": folder.name, "launcher": "local"}
    header["comparisons"] = {
        one.id: {
            "key": one.id,
            "compare": list(one.compare),
            "baseline": one.baseline,
            "arms": {arm.id: arm.cell.to_json() for arm in one.arms},
        }
        for one in matrix.comparisons
    }
    header["plans"] = {one.id: {"prologue_s": PROLOGUE_S} if prologue else {} for one in matrix.comparisons}
    writer = Writer(folder, header)
    for one in matrix.comparisons:
        times = {arm.id: 1_000_000.0 for arm in one.arms}
        for baseline, arm in one.contrasts:
            sides = {"comparison": one.id, "baseline": baseline.id, "arm": arm.id}
            writer.store.append_certificate(sides | {"status": "passed", "reason": "", "max_rel_error": 0.0})
        for number in range(blocks):
            for attempt in range(spoiled if number == 0 else 0):
                bad = block(one.id, 0, {arm: outcome(arm) for arm in times}, attempt=attempt, spoiled=["pressed"])
                writer.add(bad, steps(times, 900 + attempt))
            good = block(one.id, number, {arm: outcome(arm) for arm in times}, attempt=spoiled if number == 0 else 0)
            writer.add(good, steps(times, number))
    return writer.read()


def document(matrix: Matrix, *runs: StoredRun, launcher: str = "local") -> dict[str, Any]:
    found = prediction.document(matrix, list(runs), launcher=launcher)
    json.dumps(found, allow_nan=False)
    return found


def known(blocks: int = 8, spread: float = 0.03, block_s: float = 10.0) -> Evidence:
    return Evidence(run="r", blocks=blocks, prologue_s=PROLOGUE_S, block_s=block_s, spreads=(spread,))


def forecast(budget: Budget, evidence: Evidence | None, matrix: Matrix, least: int = 10) -> prediction.Forecast:
    return prediction.forecast(matrix.comparisons[0], evidence, budget, least)


# --- what the seed fixes


def test_the_blocks_that_the_seed_fixes_are_those_of_the_loop(matrix: Matrix) -> None:
    names = [one.id for one in matrix.comparisons]
    records: list[dict[str, Any]] = []
    played = []
    while len(played) < 20:
        due = schedule.pending(names, records, finished=set(), seed=5, least=10)
        for planned in due:
            played.append([planned.comparison, planned.block])
            arms = {arm: {"status": "measured"} for arm in "xy"}
            records.append({"comparison": planned.comparison, "block": planned.block, "attempt": 0, "spoiled": [],
                            "arms": arms})  # fmt: skip
    assert document(matrix)["blocks"] == played


def test_another_seed_gives_another_order_of_the_same_blocks(matrix: Matrix) -> None:
    one, other = (document(matrix.with_options(seed=seed))["blocks"] for seed in (5, 6))
    assert one == document(matrix.with_options(seed=5))["blocks"]
    assert one != other
    assert sorted(one) == sorted(other)


def test_as_many_blocks_are_listed_as_are_sure_to_be_measured(matrix: Matrix) -> None:
    def count(**budget: Any) -> int:
        return len(document(replace(matrix, budget=replace(matrix.budget, **budget)))["blocks"])

    assert count() == 2 * stats.k_min(2)
    assert count(blocks=3) == 2 * 3
    assert count(max_blocks=4) == 2 * 4


# --- how many blocks


def test_the_blocks_are_those_at_which_the_loop_would_stop(matrix: Matrix) -> None:
    budget = matrix.budget
    found = forecast(budget, known(spread=0.04), matrix)
    series = [0.04 if number % 2 else -0.04 for number in range(60)]

    def width_reached(blocks: int) -> bool:
        return schedule.enough([series[:blocks]], budget, 10) is not None

    assert found.blocks is not None
    assert abs(found.blocks - next(count for count in range(2, 60) if width_reached(count))) <= 2
    assert found.blocks_range is not None
    assert found.blocks_range[0] < found.blocks < found.blocks_range[1]


@pytest.mark.parametrize(
    ("budget", "spread", "blocks"),
    [
        (Budget(half_width=0.05), 0.001, 10),
        (Budget(half_width=0.001, max_blocks=17), 0.05, 17),
        (Budget(blocks=3), 0.05, 3),
        (Budget(max_blocks=6), 0.001, 6),
        (Budget(half_width=0.001, per_comparison_s=45), 0.05, 5),
        (Budget(half_width=0.001, per_comparison_s=3), 0.05, 1),
    ],
    ids=["least", "most", "exactly", "most below least", "time", "no time"],
)
def test_limits_of_blocks_and_time_hold(matrix: Matrix, budget: Budget, spread: float, blocks: int) -> None:
    assert forecast(budget, known(spread=spread), matrix).blocks == blocks


def test_fewer_blocks_of_evidence_make_a_wider_range(matrix: Matrix) -> None:
    def width(blocks: int) -> int:
        low, high = forecast(Budget(half_width=0.01, max_blocks=400), known(blocks=blocks), matrix).blocks_range or (
            0,
            0,
        )
        return high - low

    assert width(2) > width(5) > width(20) > 0


# --- how long


def test_seconds_are_prologues_and_blocks(matrix: Matrix, tmp_path: Path) -> None:
    exact = replace(matrix, budget=replace(matrix.budget, blocks=9))
    found = document(exact, earlier(tmp_path / "r", matrix))
    assert [one["seconds"] for one in found["comparisons"]] == [PROLOGUE_S + 9 * BLOCK_S] * 2
    assert found["seconds"] == 2 * (PROLOGUE_S + 9 * BLOCK_S)
    assert [one["from"] for one in found["comparisons"]] == ["r", "r"]
    assert any("not included" in note for note in found["notes"])


def test_repeats_of_spoiled_blocks_are_part_of_a_block(matrix: Matrix, tmp_path: Path) -> None:
    found = document(matrix, earlier(tmp_path / "r", matrix, blocks=4, spoiled=2))
    assert found["comparisons"][0]["block_s"] == pytest.approx(BLOCK_S * 6 / 4)


def test_the_total_budget_cuts(matrix: Matrix, tmp_path: Path) -> None:
    short = replace(matrix, budget=replace(matrix.budget, blocks=9, total_s=60.0))
    found = document(short, earlier(tmp_path / "r", matrix))
    assert found["seconds"] == 60 + BLOCK_S / 2
    assert found["seconds_at_most"] == 60


# --- where nothing is known


def test_without_an_earlier_run_durations_are_null_with_the_reason_and_the_bound_is_the_budget(matrix: Matrix) -> None:
    found = document(matrix)
    assert (found["seconds"], found["seconds_range"], found["measuring_s"]) == (None, None, None)
    assert "no earlier run holds it" in found["reason"]
    assert found["seconds_at_most"] == 3600
    for one in found["comparisons"]:
        assert [one[key] for key in ("prologue_s", "block_s", "spread", "blocks", "seconds", "from")] == [None] * 6


def test_a_run_that_did_not_record_its_prologue_tells_its_blocks_alone(matrix: Matrix, tmp_path: Path) -> None:
    found = document(matrix, earlier(tmp_path / "r", matrix, prologue=False))
    assert found["seconds"] is None
    assert "did not record how long certifying it took" in found["reason"]
    assert found["measuring_s"] == sum(one["blocks"] * BLOCK_S for one in found["comparisons"])


def test_one_block_shows_no_spread(matrix: Matrix, tmp_path: Path) -> None:
    found = document(matrix, earlier(tmp_path / "r", matrix, blocks=1))
    assert found["seconds"] is None
    assert "shows no spread" in found["reason"]
    exact = replace(matrix, budget=replace(matrix.budget, blocks=4))
    assert document(exact, earlier(tmp_path / "s", matrix, blocks=1))["seconds"] == 2 * (PROLOGUE_S + 4 * BLOCK_S)


def test_spoiled_blocks_alone_are_no_evidence(matrix: Matrix, tmp_path: Path) -> None:
    assert document(matrix, earlier(tmp_path / "r", matrix, blocks=0))["seconds"] is None


# --- which run tells


def test_another_launcher_schedule_or_batch_size_tells_nothing_and_another_version_does(
    matrix: Matrix, tmp_path: Path
) -> None:
    run = earlier(tmp_path / "r", matrix)
    assert document(matrix, run, launcher="docker")["seconds"] is None
    assert document(matrix, run, launcher="auto")["seconds"] is not None
    (tmp_path / "other.yaml").write_text(MATRIX.replace("[32]", "[16]"))
    other = load(str(tmp_path / "other.yaml")).with_options(launcher="local")
    assert [one["from"] for one in document(other, run)["comparisons"]] == ["r", None]  # five examples are one batch
    versions = "device: [cpu], framework: [tensorflow, {name: pytorch, version: 2.12.1}]"
    (tmp_path / "version.yaml").write_text(MATRIX.replace("device: [cpu]", versions))
    newer = load(str(tmp_path / "version.yaml")).with_options(launcher="local")
    assert document(newer, run)["seconds"] is not None
    assert document(replace(matrix, schedule="serial"), run)["seconds"] is None


def test_the_newest_run_with_blocks_enough_tells(matrix: Matrix, tmp_path: Path) -> None:
    old, new, pilot = (
        earlier(tmp_path / name, matrix, blocks=count) for name, count in (("old", 9), ("new", 6), ("pilot", 2))
    )
    assert document(matrix, pilot, new, old)["comparisons"][0]["from"] == "new"
    assert document(matrix, pilot)["comparisons"][0]["from"] == "pilot"


@pytest.mark.skipif(not PUBLISHED, reason="no published run here")
@pytest.mark.parametrize("pilot_blocks", [2, 4])
def test_the_first_blocks_of_the_published_run_predict_the_time_of_the_rest_within_a_factor(pilot_blocks: int) -> None:
    whole = read(PUBLISHED[0])
    first = replace(whole, blocks=[record for record in whole.blocks if record["block"] < pilot_blocks])
    later = [record for record in whole.blocks if record["block"] >= pilot_blocks]
    matrix = Matrix.from_resolved(whole.run["matrix"] | {"schedule": "lockstep"})
    found = {one["id"]: one for one in document(matrix, first, launcher="docker")["comparisons"]}
    predicted = sum(found[record["comparison"]]["block_s"] for record in later)
    taken = sum(record["wall_s"] for record in later)
    assert 1 / 1.5 < predicted / taken < 1.5
    for one in matrix.comparisons:
        blocks = stats.k_min(len(matrix.comparisons))
        assert blocks <= found[one.id]["blocks"] <= matrix.budget.max_blocks


# --- the command


def bench(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "plan", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_plan_goes_to_stdout_starts_nothing_and_advises_a_pilot(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(MATRIX)
    done = bench("--matrix", "small.yaml", "--launcher", "docker", "--format", "json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["schema"] == "bench.plan/1"
    told = bench("--matrix", "small.yaml", cwd=tmp_path).stdout
    assert "bench plan --pilot" in told
    assert "the last block begins after 60 min" in told
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_earlier_runs_of_this_machine_predict_and_broken_ones_are_named(tmp_path: Path) -> None:
    from bench.machine import describe

    (tmp_path / "small.yaml").write_text(MATRIX)
    matrix = load(str(tmp_path / "small.yaml")).with_options(launcher="local")
    for name, machine in (("here", {}), ("elsewhere", {"memory_bytes": 2**50})):
        folder = tmp_path / "runs" / name
        earlier(folder, matrix, blocks=2 if name == "here" else 9)
        header = json.loads((folder / "run.json").read_text())
        header["environment"] = describe.describe(device="cpu") | machine
        (folder / "run.json").write_text(json.dumps(header))
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "run.json").write_text("{")
    done = bench("--matrix", "small.yaml", "--launcher", "local", "--format", "json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert [one["from"] for one in found["comparisons"]] == ["here", "here"]
    assert any("not used: broken" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--matrix"),
        (("--matrix", "absent.yaml"), "absent.yaml"),
        (("--matrix", "quick", "--budget", "soon"), "soon"),
    ],
)
def test_bad_input_is_exit_2_with_nothing_on_stdout(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = bench(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
