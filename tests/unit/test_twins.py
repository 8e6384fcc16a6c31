"""Twins read side by side: the same functions, in the same order, with the same signatures."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

from workloads.contract import FRAMEWORKS, STUB

ROOT = Path(__file__).resolve().parents[2]
WORKLOADS = sorted(path.parent.name for path in (ROOT / "workloads").glob("*/spec.py") if path.parent.name != STUB)
# What a layout asks for on one side only, beside the twins' common functions.
OF_LAYOUT = {"to_torch", "from_torch", "nchw"}
RUNTIME = {"prepare", "configure", "versions", "effective", "synchronise", "device_peak_memory_bytes", "wrap",
           "compilations"}  # fmt: skip
SPEC = {"parameters", "batch_size", "learning_rate", "initial_weights", "batches", "evaluation_inputs", "evaluate"}


def functions(path: Path) -> list[tuple[str, str]]:
    """Every function in the order of the file, nested ones with their parent's name, and its signature."""
    found: list[tuple[str, str]] = []

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                returned = ast.unparse(child.returns) if child.returns else None
                found.append((prefix + child.name, f"({ast.unparse(child.args)}) -> {returned}"))
                walk(child, f"{prefix}{child.name}.")
            else:
                walk(child, prefix)

    walk(ast.parse(path.read_text(encoding="utf-8")), "")
    return found


def program_keywords(path: Path) -> list[str]:
    """What the file's Program is given, in order."""
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Program"
    ]
    (call,) = calls
    return [str(keyword.arg) for keyword in call.keywords]


def test_there_are_the_two_workloads() -> None:
    assert WORKLOADS == ["linear_regression", "mnist_cnn"]


@pytest.mark.parametrize("workload", WORKLOADS)
def test_twins_have_the_same_functions_in_the_same_order_with_the_same_signatures(workload: str) -> None:
    one, other = (functions(ROOT / "workloads" / workload / f"{name}.py") for name in FRAMEWORKS)
    common = [function for function in other if function[0].partition(".")[0] not in OF_LAYOUT]
    assert one == common
    assert [name for name, _ in one if "." not in name] == ["network", "build"]


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_reference_builds_what_the_twins_build(workload: str) -> None:
    folder = ROOT / "workloads" / workload
    signatures = {dict(functions(folder / f"{name}.py"))["build"] for name in (*FRAMEWORKS, "reference")}
    assert len(signatures) == 1
    keywords = {tuple(program_keywords(folder / f"{name}.py")) for name in (*FRAMEWORKS, "reference")}
    assert len(keywords) == 1


def test_every_spec_has_the_same_names() -> None:
    for workload in WORKLOADS:
        spec = importlib.import_module(f"workloads.{workload}.spec")
        public = {name for name, value in vars(spec).items() if inspect.isfunction(value) and not name.startswith("_")}
        own = {name for name in public if getattr(spec, name).__module__ == spec.__name__}
        assert own >= SPEC, workload
        assert {"PARAMETERS", "NEEDS_DATA", "INPUT", "TARGET"} <= set(vars(spec)), workload
        assert set(spec.parameters({})) == set(spec.PARAMETERS), workload


def test_every_spec_s_functions_have_the_same_signatures() -> None:
    first, *others = (dict(functions(ROOT / "workloads" / workload / "spec.py")) for workload in WORKLOADS)
    for other in others:
        assert {name: first[name] for name in SPEC} == {name: other[name] for name in SPEC}


def test_every_runtime_has_the_same_functions_with_the_same_signatures() -> None:
    folder = ROOT / "workloads" / "runtime"
    offered = {path.stem: dict(functions(path)) for path in folder.glob("*.py") if path.stem != "__init__"}
    assert set(offered) == {*FRAMEWORKS, "reference"}
    first, *others = ({name: found.get(name) for name in RUNTIME} for found in offered.values())
    assert None not in first.values()
    assert all(other == first for other in others)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_workload_has_a_page_with_its_formulas(workload: str) -> None:
    assert "=" in (ROOT / "workloads" / workload / "README.md").read_text(encoding="utf-8")
