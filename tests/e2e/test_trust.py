"""The harness held to its own standard, as a user asks for it; and a comparison of more than two arms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.validate import usable
from bench.validate.processes import drift_titles

BENCH = (sys.executable, "-m", "bench")
# Every one of these is measured on any machine that CI may run on; a noisy one may leave it undecided.
ANYWHERE = (
    "A/A false positives",
    "10 % more work found in 6 blocks",
    "the interval covers the injected ratio",
    *drift_titles(),
    *usable.TITLES.values(),
    usable.EQUAL_TITLE,
    "observer: cost of the loop on an empty step, sync step",
    "observer: cost of the loop on an empty step, sync slice",
    "observer: a step in the harness against a bare one",
    "sampler on against off, 10 Hz",
)
WANTED = {"A/A false positives": 100, "10 % more work found in 6 blocks": 40}
PASSED = {"passed": True, "undecided": None, "failed": False}


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of a quick validation, and what it said: a quarter of an hour."""
    out = tmp_path_factory.mktemp("validated")
    command = [*BENCH, "validate", "--quick", "--format", "json", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    (folder,) = out.iterdir()
    return folder, done


@pytest.mark.nightly
def test_no_evidence_speaks_against_the_harness(validated: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, done = validated
    report = json.loads(done.stdout)
    tests = {test["name"]: test for test in report["tests"]}
    print(done.stderr)
    assert [test for test in report["tests"] if test["outcome"] == "failed"] == []
    assert set(ANYWHERE) <= set(tests)
    for name, wanted in WANTED.items():
        assert tests[name]["n"] >= wanted or tests[name]["outcome"] == "undecided", tests[name]
    for test in report["tests"]:
        assert test["passed"] is PASSED[test["outcome"]]
        assert test["outcome"] != "undecided" or "would decide" in test["detail"], test
    assert sum(report["counts"].values()) == len(report["tests"])
    assert done.returncode == 0
    told = ", ".join(f"{count} {word}" for word, count in report["counts"].items())
    assert f"\n{told}; kept: " in done.stderr


@pytest.mark.nightly
def test_a_validation_that_stopped_within_a_campaign_goes_on_where_it_stopped(
    validated: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, first = validated
    (folder / "same.json").unlink()  # as where it was killed when all blocks of that part were on disk
    again = subprocess.run(
        [*BENCH, "validate", "--resume", str(folder), "--format", "json"], capture_output=True, text=True, check=False
    )
    assert json.loads(again.stdout)["tests"] == json.loads(first.stdout)["tests"]
    assert [line for line in again.stderr.splitlines() if line.endswith(" …")] == ["same …"]
    assert "blocks, " not in again.stderr, "no block is measured again"


FOUR = """
name: four-way
compare: [framework, mode]
baseline: {framework: tensorflow, mode: eager}
axes:
  workload: [{name: linear_regression, evaluate_steps: 20}]
  mode: [eager, graph, compiled]
exclude:
  - {framework: tensorflow, mode: compiled}
budget: {blocks: 1, per_comparison: 15m}
"""


@pytest.mark.framework
def test_four_arms_are_one_comparison_in_lockstep(tmp_path: Path, calm_tree: Callable[[], Path]) -> None:
    matrix = tmp_path / "four.yaml"
    matrix.write_text(FOUR)
    command = [*BENCH, "run", "--matrix", str(matrix), "--launcher", "local", "--out", str(tmp_path / "runs")]
    temporary = tmp_path / "temporary"  # autograph writes a source there for every graph
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(calm_tree())}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert list(temporary.iterdir()) == []
    (folder,) = (tmp_path / "runs").iterdir()
    report = subprocess.run([*BENCH, "report", str(folder), "--format", "json"], capture_output=True, check=True)
    document: dict[str, Any] = json.loads(report.stdout)
    assert {cell["label"] for cell in document["cells"]} == {
        "TF eager", "TF graph", "PyTorch eager", "PyTorch compiled"
    }, done.stderr  # fmt: skip
    assert len({one["comparison"] for one in document["contrasts"]}) == 1
    assert len(document["contrasts"]) == 3
    assert all(one["parity"]["status"] == "passed" for one in document["contrasts"]), done.stderr
    blocks = [json.loads(line) for line in (folder / "blocks.jsonl").read_text().splitlines()]
    assert all(len(block["arms"]) == 4 for block in blocks)
    assert any(not block["spoiled"] for block in blocks), [block["spoiled"] for block in blocks]
