"""The key of a comparison: it changes with all that a number depends on, and with nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_imports import dotted, imports, modules

from bench import launch, paths, store
from bench.errors import InputError
from bench.launch import Provision
from bench.launch.local import LocalLauncher
from bench.matrix.matrix import load
from bench.measure import measuring, provenance

STUBS = "axes: {workload: [stub], framework: [{name: stub}, {name: stub, work: 1.5}]}"


# Which modules measure


def inner(path: Path) -> str:
    return dotted(path).removeprefix("bench.")


def reached() -> set[str]:
    """All modules of bench that those which measure import, at any remove."""
    known = {dotted(path): path for path in modules("bench")}
    found: set[str] = set()
    left = [name for name in known if measuring.measures(name.removeprefix("bench."))]
    of_measure = {f"bench.measure.{name}" for name in ("lockstep", "certify", "pilot", "run")}
    assert of_measure | {"bench.launch.docker"} <= set(left)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            used = imports(known[name], at_run_time=True)
            left += {one if one in known else one.rpartition(".")[0] for one in used} & known.keys() - {"bench"}
    return {name.removeprefix("bench.") for name in found}


def test_whatever_a_measuring_module_imports_measures_too_or_is_excepted_with_its_reason() -> None:
    assert sorted(name for name in reached() if not measuring.named(name)) == []


def test_every_module_that_is_named_as_measuring_or_excepted_exists_and_is_not_both() -> None:
    there = {inner(path) for path in modules("bench")}
    assert set(measuring.MODULES) | set(measuring.OTHERS) <= there
    assert not set(measuring.MODULES) & set(measuring.OTHERS)
    inside = {name for name in measuring.OTHERS if any(name.startswith(f"{one}.") for one in measuring.MODULES)}
    needless = set(measuring.OTHERS) - inside - {measuring.named(name) for name in reached()}
    assert needless == set()


@pytest.mark.parametrize(
    "module", ["measure/lockstep.py", "launch/group.py", "telemetry/sampler.py", "measure/gates.py", "measure/pilot.py"]
)
def test_an_edit_of_what_measures_is_another_harness(source_tree: Callable[[], Path], module: str) -> None:
    package = source_tree() / "bench"
    assert measuring.digest(package) == measuring.digest()
    with (package / module).open("a") as file:
        file.write("\n")
    assert measuring.digest(package) != measuring.digest()


@pytest.mark.parametrize(
    "module", ["report/table.py", "cli/main.py", "errors.py", "telemetry/windows.py", "validate/row.py"]
)
def test_an_edit_of_what_tells_is_the_same_harness(source_tree: Callable[[], Path], module: str) -> None:
    package = source_tree() / "bench"
    with (package / module).open("a") as file:
        file.write("\n")
    assert measuring.digest(package) == measuring.digest()


def test_prose_beside_the_workloads_is_no_part_of_them_and_their_python_is(
    source_tree: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = source_tree()
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(paths, "worker_root", lambda: tree)
    before = paths.staged_worker_root()
    (tree / "workloads/mnist_cnn/README.md").write_text("Other words.\n")
    assert paths.staged_worker_root() == before
    assert {path.suffix for path in before.rglob("*") if path.is_file()} == {".py", ".pyc"}
    with (tree / "workloads/mnist_cnn/pytorch.py").open("a") as file:
        file.write("\n")
    assert paths.staged_worker_root() != before


# What a refusal says


@pytest.fixture
def header(tmp_path: Path) -> Callable[[], dict[str, Any]]:
    """The header that a run of two stubs begins with here and now."""
    path = tmp_path / "m.yaml"
    path.write_text(STUBS)
    matrix = load(str(path)).with_options(launcher="local", device="cpu")
    place = launch.Place(run_id="x", cache=tmp_path, data=None, base=None)
    provision = Provision(framework="stub", version="3", notes=("said",))

    def make() -> dict[str, Any]:
        return provenance.header(place, matrix, LocalLauncher(cache=tmp_path), {"stub": provision}, None)

    return make


def test_a_change_of_the_harness_or_of_the_workloads_is_refused_by_its_name(
    header: Callable[[], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = header()
    provenance.refuse_changes(tmp_path, before, header())
    monkeypatch.setattr(measuring, "digest", lambda: "another")
    with pytest.raises(InputError) as refused:
        provenance.refuse_changes(tmp_path, before, header())
    (name,) = before["comparisons"]
    assert str(refused.value) == (
        f"{tmp_path}: {name} cannot be resumed, because the harness's own code changed since it began; start a new run"
    )
    monkeypatch.setattr(paths, "staged_worker_root", lambda: tmp_path / "other")
    with pytest.raises(InputError, match="because the harness's own code and the workloads' code changed"):
        provenance.refuse_changes(tmp_path, before, header())


def test_a_run_that_kept_no_digest_of_its_harness_is_refused_for_that(
    header: Callable[[], dict[str, Any]], tmp_path: Path
) -> None:
    now = header()
    kept = copy.deepcopy({key: value for key, value in now.items() if key not in ("harness", "workloads")})
    before = store.run_of_today(kept)
    for one in before["comparisons"].values():
        one["key"] = "as it was made then"
    with pytest.raises(InputError, match="the harness's own code and the workloads' code changed"):
        provenance.refuse_changes(tmp_path, before, now)


def test_other_words_about_an_image_are_no_change(header: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    before, now = header(), header()
    now["images"]["stub"]["notes"] = ["said otherwise"]
    provenance.refuse_changes(tmp_path, before, now)
    next(iter(now["comparisons"].values()))["key"] = "another"
    now["seed"] += 1
    with pytest.raises(InputError, match="because seed changed"):
        provenance.refuse_changes(tmp_path, before, now)
