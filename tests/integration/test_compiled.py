"""What a process compiles: every program that a certificate or an evaluation builds, as the timed one."""

from __future__ import annotations

import json
import os
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from bench.matrix.model import spec_of
from bench.provision.venv import environment
from workloads.contract import Cell, Named

pytestmark = pytest.mark.framework

REPOSITORY = Path(__file__).resolve().parents[2]
MANY = 12  # torch.compile leaves a ninth program of the same code to eager mode, unless it is told otherwise
BUILD_MANY = """
import json, os, sys
os.dup2(2, 1)
from workloads import tracing
from workloads.trial import Trial
cell, framework = json.loads(sys.argv[1])
trial, _ = Trial.open(cell=cell, framework=framework, seed=0, data=None)
found = [trial.runtime.compilations()]
for i in range({many}):
    tracing.parity(trial, steps=1, precision="fp64", rate=1 / (i + 2))
    found.append(trial.runtime.compilations())
os.write(int(sys.argv[2]), json.dumps(found).encode())
"""


def test_torch_compile_compiles_the_last_program_of_a_process_too() -> None:
    given = spec_of("linear_regression").parameters({})
    cell = Cell(
        workload=Named.of("linear_regression", given), framework=Named("pytorch"), mode="compiled", device="cpu",
        batch_size=8,
    )  # fmt: skip
    python = environment(framework="pytorch", progress=print).python
    reading, writing = os.pipe()
    done = subprocess.run(
        [python, "-c", BUILD_MANY.format(many=MANY), json.dumps([cell.to_json(), "pytorch"]), str(writing)],
        cwd=REPOSITORY, pass_fds=[writing], capture_output=True, timeout=600, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    os.close(writing)
    with os.fdopen(reading) as answer:
        found = json.loads(answer.read() or "null")
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    rises = [after - before for before, after in pairwise(found)]
    assert len(rises) == MANY
    assert min(rises) > 0, rises
