"""A wheel, alone in an empty environment in another folder, runs the whole job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MATRIX = "axes: {workload: [{name: linear_regression, preset: classic}]}\nbudget: {blocks: 2}\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", out, ROOT], check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.network
def test_images_matrices_and_types_travel_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "bench/py.typed",
        "bench/matrices/quick.yaml",
        "bench/matrices/default.yaml",
        "bench/_images/tensorflow/Dockerfile",
        "bench/_images/pytorch/requirements-cpu.lock",
        "bench/_images/base/make-base.sh",
        "workloads/mnist_cnn/pytorch.py",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "results/", "docs/"))]


@pytest.mark.network
@pytest.mark.framework
def test_a_wheel_in_an_empty_environment_runs_a_matrix(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    install = [sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "install", "--quiet", wheel]
    subprocess.run(install, check=True, capture_output=True)
    (tmp_path / "small.yaml").write_text(MATRIX, encoding="utf-8")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ran = subprocess.run(
        [venv / "bin" / "bench", "run", "--matrix", "small.yaml", "--launcher", "local", "--out", "out"],
        cwd=tmp_path, env=clean, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "PyTorch predicts 1 → 2, 2 → 4, 3 → 6, 4 → 8, 5 → 10" in " ".join(ran.stdout.split())
    (run,) = (tmp_path / "out").iterdir()
    report = [venv / "bin" / "bench", "report", run, "--format", "json"]
    document = json.loads(subprocess.run(report, env=clean, capture_output=True, check=True).stdout)
    assert [one["parity"]["status"] for one in document["contrasts"]] == ["passed"]
