"""Twins read side by side: the same functions with the same signatures, by whichever framework."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

from bench import frameworks
from workloads.contract import STUB

ROOT = Path(__file__).resolve().parents[2]
WORKLOADS = sorted(path.parent.name for path in (ROOT / "workloads").glob("*/spec.py") if path.parent.name != STUB)
LINEAR = ["linear_regression", "logistic_regression", "svm"]
RUNTIME = {"prepare", "configure", "versions", "effective", "device_peak_memory_bytes", "wrap",
           "compilations"}  # fmt: skip
SPEC = {"parameters", "batch_size", "flops", "optimizer", "initial_weights", "batches", "evaluation_inputs", "evaluate"}
OF_LINEAR = {"examples", "score"}  # what cross-validation and a solver need


def functions(path: Path) -> dict[str, str]:
    """Every function of the file, those inside others not, and its signature."""
    return {
        node.name: f"({ast.unparse(node.args)}) -> {ast.unparse(node.returns) if node.returns else None}"
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }


def keywords(path: Path, name: str) -> list[str]:
    """What the file's one call of `name` is given, in order."""
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name
    ]
    (call,) = calls
    return [str(keyword.arg) for keyword in call.keywords]


def test_there_are_the_workloads_that_people_ask_about() -> None:
    assert WORKLOADS == [
        "conv1d_audio", "linear_regression", "logistic_regression", "lstm_text", "mnist_cnn", "mnist_mlp", "ncf",
        "resnet", "svm", "transformer_lm",
    ]  # fmt: skip


@pytest.mark.parametrize("workload", WORKLOADS)
def test_twins_have_the_same_network_and_build_and_give_the_same_to_the_one_training_step(workload: str) -> None:
    folder = ROOT / "workloads" / workload
    one, other = (functions(folder / f"{name}.py") for name in frameworks.defaults())
    for name in ("network", "build"):
        assert one[name] == other[name]
    tensorflow, pytorch = (keywords(folder / f"{name}.py", "supervised") for name in frameworks.defaults())
    layout = {"given", "layout"}  # PyTorch's channels come first
    assert tensorflow == [name for name in pytorch if name not in layout]


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_implementation_builds_from_the_same_and_takes_its_rule_from_the_spec(workload: str) -> None:
    folder = ROOT / "workloads" / workload
    every = [path for name in (*frameworks.every(), "reference") if (path := folder / f"{name}.py").exists()]
    assert len(every) == (4 if workload in LINEAR else 3)
    assert len({functions(path)["build"] for path in every}) == 1
    for path in every:
        assert "spec.optimizer(" in path.read_text(encoding="utf-8")


def test_every_spec_has_the_same_names() -> None:
    for workload in WORKLOADS:
        spec = importlib.import_module(f"workloads.{workload}.spec")
        public = {name for name, value in vars(spec).items() if inspect.isfunction(value) and not name.startswith("_")}
        own = {name for name in public if getattr(spec, name).__module__ == spec.__name__}
        assert own >= SPEC | (OF_LINEAR if workload in LINEAR else set()), workload
        assert {"PARAMETERS", "NEEDS_DATA", "INPUT", "TARGET"} <= set(vars(spec)), workload
        assert set(spec.parameters({})) == set(spec.PARAMETERS), workload


def test_every_spec_s_functions_have_the_same_signatures() -> None:
    first, *others = (functions(ROOT / "workloads" / workload / "spec.py") for workload in WORKLOADS)
    for other in others:
        assert {name: first[name] for name in SPEC} == {name: other[name] for name in SPEC}


def test_every_runtime_has_the_same_functions_with_the_same_signatures() -> None:
    folder = ROOT / "workloads" / "runtime"
    offered = {path.stem: functions(path) for path in folder.glob("*.py") if path.stem != "__init__"}
    assert set(offered) == {*frameworks.every(), "reference"}
    first, *others = ({name: found.get(name) for name in RUNTIME} for found in offered.values())
    assert None not in first.values()
    assert all(other == first for other in others)


def test_nothing_asks_a_device_to_synchronise() -> None:
    """TensorFlow builds an op for it, PyTorch tests a flag: a ruler that favours one of them."""
    calls = {
        (path.name, node.attr)
        for path in (ROOT / "workloads").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert not {call for call in calls if call[1] in {"sync_devices", "synchronise", "synchronize"}}


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_workload_has_a_page_with_its_formulas(workload: str) -> None:
    page = (ROOT / "workloads" / workload / "README.md").read_text(encoding="utf-8")
    for part in ("=", "What had to be handled", "Measured parity", "Source"):
        assert part in page
