"""The micro-benchmarks are run once each, untimed, so that they cannot rot; `nox -s microbench` times them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.second

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "microbench"
FILES = sorted(FOLDER.glob("bench_*.py"))
AS_BENCHMARKS = ("--override-ini=python_files=bench_*.py", "--benchmark-disable")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", str(FOLDER), "-q", "-pno:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_micro_benchmark_runs_and_does_what_it_says() -> None:
    done = run(*AS_BENCHMARKS)
    assert done.returncode == pytest.ExitCode.OK, done.stdout[-4000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) >= 11


def test_the_plain_run_collects_none_of_them() -> None:
    assert run("--collect-only").returncode == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_micro_benchmark_says_what_a_good_figure_is(file: Path) -> None:
    tests = [
        node
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert tests
    assert [test.name for test in tests if "Good: " not in (ast.get_docstring(test) or "")] == []
