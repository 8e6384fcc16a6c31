"""Three libraries in one comparison, in containers: scikit-learn has an image, and what it has no part in is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.store import read

pytestmark = [pytest.mark.docker, pytest.mark.framework]

MATRIX = """\
name: three
baseline: tensorflow
axes:
  workload:
    - {name: logistic_regression, n: 200, d: 3, optimizer: gradient_descent, folds: 4, evaluate_steps: 400}
    - {name: svm, n: 256, d: 4, evaluate_steps: 50}
  framework: [tensorflow, pytorch, sklearn]
  phase: [train, infer]
  batch_size: [8]
exclude:
  - {workload: logistic_regression, phase: infer}
budget: {blocks: 1, per_comparison: 1h, total: 1h}
"""
BENCH = (sys.executable, "-m", "bench")


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*BENCH, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run's folder, and what was printed."""
    out = tmp_path_factory.mktemp("three")
    (out / "m.yaml").write_text(MATRIX)
    done = bench("run", "--matrix", out / "m.yaml", "--out", out / "runs", "--launcher", "docker")
    assert done.returncode == 0, done.stderr
    (folder,) = (out / "runs").iterdir()
    return folder, done.stdout


def document(folder: Path) -> dict[str, Any]:
    done = bench("report", folder, "--format", "json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_each_library_has_its_own_image_on_the_one_base(run: tuple[Path, str]) -> None:
    images = {cell["image"] for cell in document(run[0])["cells"]}
    assert len(images) == 3
    listed = json.loads(bench("images", "list", "--format", "json").stdout)
    assert len({image["base"] for image in listed if image["id"] in images}) == 1


def test_every_pair_is_certified_and_has_a_ratio(run: tuple[Path, str]) -> None:
    contrasts = document(run[0])["contrasts"]
    arms = [(one["comparison"].partition("-")[0], one["comparison"].split("-")[1], one["arm"]) for one in contrasts]
    assert len(arms) == 5, "scikit-learn's support vector machine has no step over a batch of 8"
    for one in contrasts:
        assert one["parity"]["status"] == "passed"
        assert one["parity"]["max_rel_error"] < 1e-12
        assert one["ratio"] > 0
        assert one["verdict"] not in {"failed", "invalid", "unsupported"}


def test_what_it_has_no_part_in_is_left_out_with_the_reason(run: tuple[Path, str]) -> None:
    (note,) = [note for note in read(run[0]).run["matrix"]["notes"] if "sklearn" in note]
    assert note == "sklearn trains svm by one example a step only: svm sklearn train eager b8 left out"


def test_the_report_gives_the_exact_solution_beside_what_training_came_to(run: tuple[Path, str]) -> None:
    cells = [cell for cell in document(run[0])["cells"] if cell["cell"]["workload"]["name"] == "logistic_regression"]
    found = {cell["cell"]["framework"]["name"]: cell["evaluation"] for cell in cells if cell["evaluation"]}
    assert found["sklearn"]["solver"] == "newton-cholesky"
    for evaluation in found.values():
        assert evaluation["weights"] == pytest.approx(found["sklearn"]["weights"], abs=1e-3)
        assert evaluation["bias"] == pytest.approx(found["sklearn"]["bias"], abs=1e-3)
        assert evaluation["cross_validation"]["folds"] == 4
    assert "sklearn (by newton-cholesky)" in run[1]
    assert "4-fold cross-validation" in run[1]
