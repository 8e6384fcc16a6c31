"""What workers set for themselves, and what an image's own settings come to."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from bench import frameworks
from bench.launch import worker_environment
from bench.provision import foreign
from workloads import trial
from workloads.contract import Cell, Named

if TYPE_CHECKING:
    import pytest


def test_every_variable_that_a_worker_sets_is_known(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an image's own would be overwritten without a word in the report."""
    environment: dict[str, str] = {"BENCH_COMPILE_CACHE": str(tmp_path)}
    monkeypatch.setattr(os, "environ", environment)
    for framework in frameworks.defaults():
        cell = Cell(workload=Named("linear_regression"), framework=Named(framework), device="cpu")
        importlib.import_module(f"workloads.runtime.{framework}").prepare(cell)
        trial.own_compile_cache(cell)
    environment |= trial.thread_variables(1)
    environment |= worker_environment(root="/", cache="/", padding=0, inherited={"HOME": "/", "USER": "nobody"})
    known = {*foreign.own_variables(), "PYTHONPATH"}
    assert {name for name in environment if not name.startswith("BENCH_")} == known


def test_the_worker_s_modules_come_before_those_of_the_image_s_own_path() -> None:
    assert foreign.python_path("/worker", {"Env": ["PATH=/bin", "PYTHONPATH=/opt/a:/opt/b"]}) == (
        "/worker:/opt/a:/opt/b"
    )
    assert foreign.python_path("/worker", {"Env": None}) == "/worker"
