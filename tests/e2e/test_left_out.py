"""One arm that cannot be measured, with the real frameworks: it says why, and the others are certified and compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.store import read

pytestmark = pytest.mark.framework
Copy = Callable[[], Path]
LIMIT_S = 300
BLOCKS = 2


@dataclass
class Done:
    """A `bench run` to its end."""

    code: int
    said: str
    printed: str
    folder: Path

    def contrasts(self, workload: str) -> dict[str, dict[str, Any]]:
        """Of one workload, by the arm's id."""
        command = [sys.executable, "-m", "bench", "report", self.folder, "--format", "json"]
        document = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        own = [one for one in document["contrasts"] if one["comparison"].startswith(workload)]
        return {one["arm"].partition("/")[2]: one for one in own}


def done(folder: Path, matrix: str, *, tree: Path, **variables: str) -> Done:
    path = folder / "matrix.yaml"
    path.write_text(matrix)
    env = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(tree), **variables}
    command = [sys.executable, "-m", "bench", "run", "--matrix", path, "--launcher", "local", "--out", folder / "runs"]
    ended = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )  # fmt: skip
    assert "Traceback" not in ended.stderr, ended.stderr
    (run,) = (folder / "runs").iterdir()
    return Done(ended.returncode, ended.stderr, ended.stdout, run)


@pytest.fixture(scope="module")
def without_compiler(tmp_path_factory: pytest.TempPathFactory, calm_tree: Copy, borrowed_cache: Path) -> Done:
    """TensorFlow eager, graph, and PyTorch compiled, which takes a C++ compiler that is not on the PATH."""
    folder = tmp_path_factory.mktemp("compiler")
    (folder / "empty").mkdir()
    matrix = f"""\
name: modes
compare: [framework, mode]
axes:
  workload: [{{name: linear_regression, n: 256, d: 8, evaluate_steps: 20}}]
  mode: [eager, graph, compiled]
exclude:
  - {{framework: tensorflow, mode: compiled}}
  - {{framework: pytorch, mode: eager}}
budget: {{blocks: {BLOCKS}}}
seed: 7
"""
    return done(folder, matrix, tree=calm_tree(), BENCH_CACHE=str(borrowed_cache), PATH=str(folder / "empty"), CXX="")


def test_without_a_compiler_the_compiled_arm_alone_is_unsupported_and_names_the_remedy(without_compiler: Done) -> None:
    found = without_compiler.contrasts("linear_regression")
    compiled = found["pytorch-compiled"]
    assert (compiled["verdict"], compiled["ratio"], compiled["blocks"]) == ("unsupported", None, 0)
    assert compiled["reason"] == (
        "PyTorch compiled: torch.compile needs a C++ compiler; apt-get install g++, or use --launcher docker"
    )
    assert "pytorch-compiled is left out (unsupported): " in without_compiler.said
    assert "apt-get install g++" in " ".join(without_compiler.printed.split())


def test_the_others_are_certified_and_measured_in_all_their_blocks_and_the_run_ends_well(
    without_compiler: Done,
) -> None:
    graph = without_compiler.contrasts("linear_regression")["tensorflow-graph"]
    assert graph["parity"]["status"] == "passed"
    assert graph["blocks"] == BLOCKS
    stored = read(without_compiler.folder)
    assert all(set(record["arms"]) == {"tensorflow-eager", "tensorflow-graph"} for record in stored.blocks)
    (plan,) = stored.run["plans"].values()
    assert set(plan["step_ns"]) == {"tensorflow-eager", "tensorflow-graph"}
    assert graph["ratio"] > 0
    assert without_compiler.code == 0, without_compiler.said


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, calm_tree: Copy, edit: Any, borrowed_cache: Path) -> Done:
    """Three arms of two workloads: PyTorch's code raises in the trace of one, and the reference's in the other."""
    tree = calm_tree()
    raising = "    if cell.precision == 'fp64':\n        raise AttributeError('no such thing here')\n"
    first = "    model = network(cell=cell, weights=weights)\n"
    edit(tree / "workloads/linear_regression/pytorch.py", first, raising + first)
    edit(
        tree / "workloads/logistic_regression/reference.py",
        "    return supervised(\n",
        "    raise MemoryError('it does not fit')\n    return supervised(\n",
    )
    matrix = """\
name: broken
compare: [framework, mode]
axes:
  workload: [{name: linear_regression, n: 256, d: 8, evaluate_steps: 20}, {name: logistic_regression, n: 256, d: 8}]
  mode: [eager, graph]
budget: {blocks: 1}
seed: 7
"""
    return done(tmp_path_factory.mktemp("broken"), matrix, tree=tree, BENCH_CACHE=str(borrowed_cache))


def test_an_exception_in_one_arm_s_trace_is_failed_for_its_contrast_alone_and_no_failed_parity(broken: Done) -> None:
    found = broken.contrasts("linear_regression")
    assert found["pytorch-eager"]["verdict"] == "failed"
    assert found["pytorch-eager"]["reason"] == "PyTorch eager: AttributeError: no such thing here"
    assert found["tensorflow-graph"]["parity"]["status"] == "passed"
    assert found["tensorflow-graph"]["blocks"] == 1
    log = broken.folder / read(broken.folder).certificates_of("linear_regression-train-b64")["pytorch-eager"]["log"]
    assert "no such thing here" in log.read_text()
    assert log.name in "".join(broken.printed.split()), "the table folds its lines"
    assert broken.code == 3


def test_an_exception_in_the_reference_is_every_contrast_s_reason_and_no_failed_parity(broken: Done) -> None:
    found = broken.contrasts("logistic_regression")
    assert {one["verdict"] for one in found.values()} == {"failed"}
    assert {one["reason"] for one in found.values()} == {"the reference: MemoryError: it does not fit"}


@pytest.fixture(scope="module")
def tiring(tmp_path_factory: pytest.TempPathFactory, calm_tree: Copy, edit: Any, borrowed_cache: Path) -> Done:
    """PyTorch leaves out its updates from its 10,000th step on, which no prologue takes and every block does."""
    tree = calm_tree()
    call = "        return step(xs[i % len(xs)], ys[i % len(ys)])\n"
    edit(
        tree / "workloads/training/pytorch.py",
        call,
        "        take = step if i < 10_000 else lambda x, y: probe(x, y)[0]\n" + call.replace("step(", "take("),
    )
    matrix = """\
name: tiring
compare: framework
axes: {workload: [{name: linear_regression, n: 256, d: 8, evaluate_steps: 20}]}
budget: {blocks: 2}
seed: 7
"""
    return done(tmp_path_factory.mktemp("tiring"), matrix, tree=tree, BENCH_CACHE=str(borrowed_cache))


def test_a_twin_that_stops_to_learn_within_a_block_is_proved_before_and_invalid_after_it(tiring: Done) -> None:
    (found,) = tiring.contrasts("linear_regression").values()
    assert found["parity"]["status"] == "passed"
    assert (found["verdict"], found["ratio"]) == ("invalid", None)
    assert found["reason"].startswith("parity failed after the last slice: ")
    assert "leaves out updates: no weight moved after step" in found["reason"]
    (record,) = read(tiring.folder).blocks
    assert record["arms"]["tensorflow"]["closing"]["reason"] is None
    assert tiring.code == 3, "and no second block is spent on it"
