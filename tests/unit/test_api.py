"""`import bench`: what it gives, and every example of docs/api.md that measures nothing."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

import bench
from bench import api
from bench.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
PUBLISHED = "results/quick-20261130-015210-91c6"
STUBS: dict[str, Any] = {"axes": {"workload": ["stub"], "framework": ["stub", {"name": "stub", "work": 1.5}]}}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> bench.Run:
    monkeypatch.chdir(ROOT)
    return bench.read(PUBLISHED)


@pytest.mark.parametrize("code", [one for one in EXAMPLES if "bench.run(" not in one])
def test_an_example_of_the_page_gives_a_frame(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    *statements, last = code.strip().splitlines()
    names: dict[str, Any] = {}
    exec("\n".join(statements), names)
    found = eval(last, names)
    assert isinstance(found, pd.DataFrame)
    assert len(found) > 1


def test_the_examples_that_measure_are_the_ones_that_are_run_elsewhere() -> None:
    assert len([one for one in EXAMPLES if "bench.run(" in one]) == 1


@pytest.mark.parametrize("name", ["contrasts", "cells", "blocks", "steps"])
def test_every_frame_has_the_columns_that_the_page_names(run: bench.Run, name: str) -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `run.{name}`")]
    told = set(re.findall(r"`(\w+)`", row.rsplit("|", 2)[1]))
    frame = getattr(run, name)
    assert told <= set(frame.columns)
    if name == "contrasts":
        assert told == {column for column in frame.columns if "." not in column}
        assert "workload.evaluate_steps" in frame.columns, "two sizes of a workload are told apart"


def test_frames_say_what_the_report_says(run: bench.Run) -> None:
    document = run.document
    assert list(run.contrasts["ratio"]) == [one["ratio"] for one in document["contrasts"]]
    assert list(run.contrasts["verdict"]) == [one["verdict"] for one in document["contrasts"]]
    assert list(run.cells["step_ms"]) == [one["metrics"]["step_ms"]["median"] for one in document["cells"]]
    assert len(run.steps) == sum(len(run.stored.steps(one)) for one in run.stored.blocks)
    assert run.exit_code == 0


def test_a_notebook_shows_the_contrasts(run: bench.Run) -> None:
    page = run._repr_html_()
    assert page.count("<tr") == 1 + len(run.contrasts)
    assert "slower" in page


def test_a_run_shows_the_table_of_the_command_line(run: bench.Run) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    run.show(console)
    shown = [sys.executable, "-m", "bench", "report", PUBLISHED]
    told = subprocess.run(shown, capture_output=True, text=True, check=True, env={"COLUMNS": "120", "PATH": ""}).stdout
    assert console.export_text().split() == told.split()


def test_a_mapping_is_a_matrix_and_its_faults_are_sentences() -> None:
    assert [one.id for one in api.load(STUBS).comparisons] == ["stub-train-eager-b64"]
    with pytest.raises(InputError, match=r'^matrix:1: key "axis" is unknown; did you mean "axes"\?'):
        bench.plan({"axis": {}})
    with pytest.raises(InputError, match="neither a file nor built in"):
        bench.plan("quik")


def test_a_matrix_that_is_loaded_already_is_taken_as_it_is() -> None:
    loaded = api.load(STUBS, seed=5)
    assert api.load(loaded) == loaded
    assert api.load(loaded, budget="90s").budget.total_s == 90


def test_options_stand_in_for_what_the_matrix_says(tmp_path: Path) -> None:
    plan = bench.plan({**STUBS, "budget": {"blocks": 3}}, launcher="local", seed=9, out=tmp_path)
    assert (plan.document["seed"], plan.document["launcher"], plan.seconds) == (9, "local", None)
    assert plan.document["budget"]["blocks"] == 3


def test_auto_stands_beside_no_other_launcher() -> None:
    both = {"axes": {**STUBS["axes"], "launcher": ["auto", "local"]}}
    with pytest.raises(InputError, match="cannot stand beside another"):
        bench.plan(both)


def test_a_run_that_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no run here, and none of that id in"):
        bench.read("nothing", out=tmp_path)


def test_stubs_are_measured_and_read_again(tmp_path: Path) -> None:
    found = bench.run({**STUBS, "budget": {"blocks": 1}}, launcher="local", out=tmp_path)
    assert found.folder.parent == tmp_path
    assert bench.read(found.folder.name, out=tmp_path).contrasts.equals(found.contrasts)
    assert found.contrasts["arm"].iloc[0] == "stub work 1.5"


def test_importing_bench_loads_nothing_of_it() -> None:
    code = "import sys, bench; print([name for name in sys.modules if name.startswith('bench.') or name == 'pandas'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_what_is_not_there_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'compares'"):
        bench.compares  # noqa: B018
