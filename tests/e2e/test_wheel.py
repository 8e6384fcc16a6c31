"""A wheel, alone in an empty environment in another folder, runs the whole job."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
        "bench/matrix/quick.yaml",
        "bench/matrix/default.yaml",
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


# Installed from a checkout


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(source_tree: Callable[[], Path]) -> Path:
    """A small repository that holds this program, with one commit."""
    tree = source_tree()
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, tree / name)
    git(tree, "init", "--quiet")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "-m", "first")
    return tree


def install(what: str | Path, site: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, what]
    subprocess.run(command, check=True, capture_output=True)


def told(site: Path, cwd: Path) -> dict[str, Any]:
    """What the program that lies in `site` says of itself."""
    code = "import json, bench.machine.describe as e; print(json.dumps(e.describe(device='cpu')))"
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, check=True)
    found = dict(json.loads(done.stdout))
    assert str(site) not in done.stdout
    return {key: found[key] for key in ("commit", "dirty")}


@pytest.mark.network
def test_what_pip_installed_from_a_checkout_names_its_commit_for_as_long_as_it_is_that(
    checkout: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    install(checkout, site)
    first = git(checkout, "rev-parse", "HEAD")
    assert told(site, tmp_path) == {"commit": first, "dirty": False}
    (checkout / "notes.md").write_text("A commit that changes no code.\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "-m", "second")
    second = git(checkout, "rev-parse", "HEAD")
    assert told(site, tmp_path) == {"commit": second, "dirty": False}
    for file in ("bench/measure/lockstep.py", "bench/_images/base/make-base.sh", "workloads/mnist_cnn/pytorch.py"):
        before = (site / file).read_bytes()
        (site / file).write_bytes(before + b"\n")
        assert told(site, tmp_path) == {"commit": second, "dirty": True}, file
        (site / file).write_bytes(before)
    assert told(site, tmp_path) == {"commit": second, "dirty": False}
    (checkout / "bench/measure/lockstep.py").write_text("# another harness\n")
    git(checkout, "commit", "--quiet", "-a", "-m", "third")
    assert told(site, tmp_path) == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": True}
    shutil.rmtree(checkout)
    assert told(site, tmp_path) == {"commit": None, "dirty": None}


@pytest.mark.network
def test_what_pip_installed_from_a_checkout_with_changes_is_dirty(checkout: Path, tmp_path: Path) -> None:
    (checkout / "bench/added.py").write_text("x = 1\n")
    install(checkout, tmp_path / "site")
    assert told(tmp_path / "site", tmp_path) == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": True}


@pytest.mark.network
def test_what_pip_installed_from_a_repository_names_the_commit_that_it_fetched(checkout: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(f"git+{checkout.as_uri()}", site)
    commit = git(checkout, "rev-parse", "HEAD")
    shutil.rmtree(checkout)
    assert told(site, tmp_path) == {"commit": commit, "dirty": False}
    with (site / "bench/measure/lockstep.py").open("a") as file:
        file.write("\n")
    assert told(site, tmp_path) == {"commit": commit, "dirty": True}


@pytest.mark.network
def test_a_plain_wheel_has_no_commit(wheel: Path, tmp_path: Path) -> None:
    install(wheel, tmp_path / "site")
    assert told(tmp_path / "site", tmp_path) == {"commit": None, "dirty": None}
