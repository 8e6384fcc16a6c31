"""Who imports whom: the wall between bench and workloads, no cycles, and a command line that starts at once."""

from __future__ import annotations

import ast
import graphlib
import io
import re
import resource
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FRAMEWORKS = {
    "tensorflow.py": {"tensorflow", "keras"},
    "pytorch.py": {"torch"},
    "sklearn.py": {"sklearn", "threadpoolctl"},
}
CPU_LIMIT_S = 0.25

PURE = ("stats", "planning/schedule", "measure/parity", "matrix/comparison")
EFFECTS = {"launch", "cli", "report", "provision", "store", "telemetry"}


def modules(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, at_run_time: bool = False) -> Iterator[str]:
    """Every module that a file imports, inside functions too; `at_run_time` leaves out what is for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if at_run_time and node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", modules("workloads"), ids=dotted)
def test_a_worker_s_module_imports_the_standard_library_numpy_and_at_most_its_one_framework(path: Path) -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "workloads"} | FRAMEWORKS.get(path.name, set())
    assert top(path) - allowed == set()


def test_no_module_of_workloads_imports_bench() -> None:
    assert [dotted(path) for path in modules("workloads") if "bench" in top(path)] == []


def test_the_contract_needs_the_standard_library_alone_until_an_array_is_packed() -> None:
    code = "import sys, workloads.contract; print(sorted({'numpy', 'torch', 'tensorflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_twin_and_runtime_imports_its_framework() -> None:
    for path in modules("workloads"):
        if path.name in FRAMEWORKS:
            assert top(path) & FRAMEWORKS[path.name], dotted(path)


def test_bench_imports_no_framework() -> None:
    heavy = {"tensorflow", "keras", "torch", "jax", "sklearn"}
    assert {dotted(path): top(path) & heavy for path in modules("bench") if top(path) & heavy} == {}


def test_bench_imports_of_workloads_only_what_both_sides_share() -> None:
    # And the package itself, to know where it lies. The stub is the harness's own.
    shared = ("workloads.contract", "workloads.distance", "workloads.stub")
    found = {
        f"{dotted(path)}: {name}"
        for path in modules("bench")
        for name in imports(path)
        if name.startswith("workloads.") and not name.startswith(shared)
    }
    assert found == set()


def test_bench_has_no_import_cycle() -> None:
    known = {dotted(path): path for path in modules("bench")}
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        used = set()
        for imported in imports(path, at_run_time=True):
            found = imported if imported in known else imported.rpartition(".")[0]
            if found in known and found not in ("bench", name):
                used.add(found)
        graph[name] = used
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)


# What each part of bench may import, and with it all that those may; the table of docs/design.md says the same.
MAY = {
    "stats": (), "store": (), "telemetry": (), "engine": (), "matrix": (),
    "machine": ("telemetry", "engine"),
    "planning": ("stats",),
    "estimate": ("matrix", "planning", "store", "telemetry"),
    "report": ("estimate",),
    "history": ("estimate",),
    "provision": ("machine",),
    "launch": ("provision", "matrix"),
    "measure": ("launch", "estimate"),
    "validate": ("measure",),
    "api": ("measure", "report", "history"),
    "cli": ("validate", "api"),
    "__main__": ("cli",),
    "": ("api",),
}  # fmt: skip
EVERYBODY = {
    "errors",
    "text",
    "frameworks",
    "records",
    "paths",
    "storage",
    "child",
}  # may be imported by all, and import each other


def test_the_design_page_says_who_may_import_whom_and_what_stands_below_stands_below() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z]+)` \| [^|]+ \| ([^|]*)\|$", text, flags=re.MULTILINE)
    told = {part: set(re.findall(r"`([a-z]+)`", imported)) for part, imported in rows}
    assert told == {part: set(may) for part, may in MAY.items() if part not in ("", "__main__")}
    order = list(told)
    assert all(order.index(part) < order.index(one) for part, may in told.items() for one in may)
    everybody = text.partition("Everybody may use ")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z]+)`", everybody)) == EVERYBODY


def below(part: str) -> set[str]:
    return {found for one in MAY[part] for found in ({one} | below(one))}


def inside() -> Iterator[tuple[str, str, str]]:
    """Every import of bench by bench: the importing module, the imported one, and the name."""
    known = {dotted(path): path for path in modules("bench")}
    for module, path in known.items():
        for imported in imports(path):
            found = imported if imported in known else imported.rpartition(".")[0]
            if found.startswith("bench."):
                yield module, found, imported.removeprefix(found).lstrip(".")


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_part_of_bench_imports_only_what_lies_below_it() -> None:
    wrong = {
        f"{module} imports {imported}"
        for module, imported, _ in inside()
        if (own := part(module)) != (other := part(imported))
        and other not in EVERYBODY
        and (own in EVERYBODY or other not in below(own))
    }
    assert wrong == set()


def test_every_part_of_bench_has_its_place() -> None:
    assert {part(dotted(path)) for path in modules("bench")} == {*MAY, *EVERYBODY}


def test_no_private_name_crosses_a_folder() -> None:
    crossing = {
        f"{module} imports {name} of {imported}"
        for module, imported, name in inside()
        if name.startswith("_") and module.rpartition(".")[0] != imported.rpartition(".")[0]
    }
    assert crossing == set()


def test_pure_modules_import_nothing_that_has_effects() -> None:
    for name in PURE:
        path = ROOT / "bench" / f"{name}.py"
        inside = {imported.split(".")[1] for imported in imports(path) if imported.startswith("bench.")}
        assert not inside & EFFECTS, name
        assert not top(path) & {"subprocess", "socket", "docker", "os", "time"}, name


def test_help_imports_nothing_heavier_than_click() -> None:
    listing = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "bench", "--help"], capture_output=True, text=True, check=True
    ).stderr
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in listing.splitlines() if "|" in line}
    startup = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", ""], capture_output=True, text=True, check=True
    ).stderr
    before = {line.rpartition("|")[2].strip().partition(".")[0] for line in startup.splitlines() if "|" in line}
    assert "click" in loaded
    assert loaded - before - set(sys.stdlib_module_names) <= {"click", "bench"}


def test_help_takes_less_than_a_quarter_of_a_second_of_cpu() -> None:
    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "bench", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(once() for _ in range(3)) < CPU_LIMIT_S, "the first may compile bytecode; a neighbour may be busy"


NAMES = re.compile(r"tensorflow|pytorch|sklearn|keras|(?<![-\w.])torch(?![-\w.])", re.IGNORECASE)


def test_no_module_of_bench_names_a_framework_but_in_prose_and_where_the_cpu_wheel_is_found() -> None:
    """What is known of each stands in images/<name>/framework.toml; one address of a source holds a name."""
    named = []
    for path in modules("bench"):
        if path.name == "torch.py":
            continue
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
            prose = token.type == tokenize.COMMENT or token.string.startswith(('"""', 'r"""'))
            code = token.type in (tokenize.NAME, tokenize.STRING) and token.line.lstrip()[:5] not in ("from ", "impor")
            if not prose and code and NAMES.search(token.string):
                named.append(f"{path.name}: {token.string}")
    assert [one for one in named if "https://" not in one] == []
    assert len(named) <= 1
