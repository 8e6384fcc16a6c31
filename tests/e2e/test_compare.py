"""Two runs compared, and a run planned, as a user does it: stubs do known work through the local launcher."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.store import read

STUBS = """\
name: stub
axes:
  workload: [{{name: stub, bytes: {bytes}}}]
  framework: [{{name: stub}}, {{name: stub, work: {work}}}]
budget: {{blocks: {blocks}, per_comparison: 1h, total: 1h}}
"""
ORDERED_BLOCKS = 2
ORDERS = """\
name: orders
axes:
  workload: [{name: stub, bytes: 65536}, {name: stub, bytes: 131072}, {name: stub, bytes: 262144}]
  framework: [{name: stub}, {name: stub, work: 1.0}]
budget: {blocks: 2, per_comparison: 1h, total: 1h}
"""
BLOCKS = 7
BYTES = 262_144
TENTH_MORE_BYTES = 288_384  # in whole blocks of SHA-256
HALF_MORE_BYTES = 393_216

Run = Callable[..., Path]


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bench", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Measure a matrix with the local launcher; returns the run's folder.

    spoiled  whether the machine may spoil blocks of it, which then are repeated and do not count
    """

    def measure(text: str, *arguments: str, spoiled: bool = False) -> Path:
        out = tmp_path_factory.mktemp("run")
        (out / "matrix.yaml").write_text(text)
        done = bench("run", "--matrix", out / "matrix.yaml", "--launcher", "local", "--out", out / "runs", *arguments)
        assert done.returncode in ((0, 3) if spoiled else (0,)), done.stderr
        (folder,) = (out / "runs").iterdir()
        return folder

    return measure


def stubs(*, work: float = 1.0, size: int = BYTES) -> str:
    return STUBS.format(bytes=size, work=work, blocks=BLOCKS)


@pytest.fixture(scope="module")
def before(run: Run) -> Path:
    """What the others are compared with."""
    return run(stubs())


def compared(before: Path, after: Path) -> tuple[int, dict[str, Any]]:
    done = bench("compare", before, after, "--fail-above", "5%", "--format", "json")
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def changed(one: Mapping[str, Any]) -> list[str]:
    """What the test changed: another processor may have been the calmest, which is told beside it."""
    return [change for change in one["changed"] if not change.startswith("effective cpus: ")]


def test_two_runs_of_the_same_program_find_nothing_and_exit_0(run: Run, before: Path) -> None:
    after = run(stubs())
    code, document = compared(before, after)
    one, other = document["cells"]
    assert_unchanged(one, other, calm=is_calm(before, after))
    assert_unchanged(other, one, calm=is_calm(before, after))
    assert code == 0
    assert [changed(cell) for cell in document["cells"]] == [[], []]


def is_calm(*runs: Path) -> bool:
    """Whether the machine disturbed no block of them."""
    return not any(block["spoiled"] for run in runs for block in read(run).blocks)


def assert_unchanged(cell: Mapping[str, Any], other: Mapping[str, Any], *, more: float = 1.0, calm: bool) -> None:
    """No difference is claimed, or one that 5 % does not fail for: of the machine between two sessions.

    More than sessions differ as a rule (docs/decisions/0006): where no block was disturbed, such as by another clock
    speed, it is of the other arm as well, beside the `more` work of that, and the reason points at what arms share.
    """
    if cell["verdict"] in {"inconclusive", "equivalent"}:
        return
    assert abs(cell["change"] - 1) < 0.05, (cell, other)
    if calm:
        assert other["evidence"]["own"]["ratio"] / more == pytest.approx(cell["change"], rel=0.02), (cell, other)
        assert "the machine, or what" in cell["reason"], (cell, other)


def test_a_tenth_more_work_in_one_arm_exits_1_and_names_that_arm(run: Run, before: Path) -> None:
    after = run(stubs(work=1.1), spoiled=True)
    calm = is_calm(before, after)
    code, document = compared(before, after)
    unchanged, more = document["cells"]
    if calm:
        assert code == 1
        assert (more["verdict"], more["above"]) == ("slower", True)
        assert more["ci"][0] < 1.1 < more["ci"][1]
    assert changed(more) == ["framework work: 1.0 → 1.1"]
    assert_unchanged(unchanged, more, more=1.1, calm=calm)


@pytest.mark.nightly
def test_half_more_work_in_one_arm_exits_1_and_names_that_arm(run: Run, before: Path) -> None:
    """Beside any neighbour."""
    after = run(stubs(work=1.5))
    code, document = compared(before, after)
    assert code == 1
    unchanged, more = document["cells"]
    assert (more["verdict"], more["above"]) == ("slower", True)
    assert more["change"] == pytest.approx(1.5, rel=0.15)
    assert changed(more) == ["framework work: 1.0 → 1.5"]
    assert_unchanged(unchanged, more, more=1.5, calm=is_calm(before, after))


def test_half_more_work_in_both_arms_exits_1_and_points_at_what_they_share(run: Run, before: Path) -> None:
    code, document = compared(before, run(stubs(size=HALF_MORE_BYTES)))
    assert code == 1
    assert [cell["verdict"] for cell in document["cells"]] == ["slower", "slower"]
    assert any(cell["above"] for cell in document["cells"])
    assert all("every arm of the comparison changed alike" in cell["reason"] for cell in document["cells"])
    assert changed(document["comparisons"][0]) == [f"workload bytes: {BYTES} → {HALF_MORE_BYTES}"]


@pytest.mark.nightly
def test_a_tenth_more_work_in_both_arms_exits_1_or_is_said_to_be_out_of_sight(run: Run, before: Path) -> None:
    """What all arms share is not paired: a machine whose blocks spread widely cannot show a tenth of it."""
    after = run(stubs(size=TENTH_MORE_BYTES))
    code, document = compared(before, after)
    baseline = document["cells"][0]
    if is_calm(before, after):
        assert baseline["verdict"] == ("slower" if code else "inconclusive")
    if code:
        assert any((cell["verdict"], cell["above"]) == ("slower", True) for cell in document["cells"])
    elif baseline["verdict"] != "slower":  # which may be shown, and not to be over 5 %
        assert baseline["verdict"] == "inconclusive"
        assert baseline["resolution"] > 0.05
        assert any("a slowdown of 5 % goes unseen" in line for line in document["unseen"])


def measured_order(folder: Path) -> list[list[Any]]:
    """Of first attempts of the blocks planned: one that the machine spoiled is repeated, and replaced in the end."""
    first = (one for one in read(folder).blocks if one["attempt"] == 0 and one["block"] < ORDERED_BLOCKS)
    return [[one["comparison"], one["block"]] for one in first]


def test_the_same_seed_measures_the_same_blocks_in_the_order_that_the_plan_lists(run: Run, tmp_path: Path) -> None:
    def planned(*arguments: str) -> Any:
        (tmp_path / "orders.yaml").write_text(ORDERS)
        matrix = ("--matrix", tmp_path / "orders.yaml", "--launcher", "local")
        done = bench("plan", *matrix, "--out", tmp_path / "none", "--format", "json", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    first, second, other = (run(ORDERS, "--seed", seed, spoiled=True) for seed in ("3", "3", "4"))
    assert measured_order(first) == measured_order(second) == planned("--seed", "3")["blocks"]
    assert measured_order(other) == planned("--seed", "4")["blocks"] != measured_order(first)
    assert sorted(measured_order(other)) == sorted(measured_order(first))


def test_a_pilot_is_a_run_that_is_kept_and_predicts_the_whole(run: Run, tmp_path: Path) -> None:
    text = stubs().replace(f"blocks: {BLOCKS}", "blocks: 5")
    (tmp_path / "m.yaml").write_text(text)
    matrix = ("--matrix", tmp_path / "m.yaml", "--launcher", "local")
    done = bench("plan", *matrix, "--pilot", "--out", tmp_path / "runs", "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (pilot,) = (tmp_path / "runs").iterdir()
    assert pilot.name.startswith("plan-stub-")
    assert f"pilot: {pilot}, kept" in done.stderr
    assert {record["block"] for record in read(pilot).blocks} >= {0, 1}, "more only where the machine spoiled one"
    (one,) = found["comparisons"]
    assert (one["from"], one["blocks"]) == (pilot.name, 5)
    whole = read(run(text, spoiled=True))
    taken = whole.run["plans"][one["id"]]["prologue_s"] + sum(record["wall_s"] for record in whole.blocks)
    assert 1 / 3 < found["seconds"] / taken < 3  # other programs may come and go meanwhile
