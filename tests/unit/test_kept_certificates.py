"""Certificates that are kept: found again on the same terms, never on others, never one that did not pass."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.matrix.comparison import Arm, Comparison
from bench.measure import kept_certificates
from bench.measure.parity import Certificate, Check
from workloads.contract import Cell, Named

CHECK = Check(name="float64 weights", arm="pytorch", place="dense1/kernel", value=1e-15, limit=1e-10, passed=True)
PASSED = Certificate(status="passed", reason="", max_rel_error=1e-15, checks=(CHECK,), made_at="2026-11-30T00:00:00Z")
HEADER: dict[str, Any] = {
    "harness": "aaaa", "workloads": "bbbb", "seed": 0, "data": {"images": "cccc"},
    "images": {"tensorflow": {"image": "sha256:1", "notes": ["x"]}, "pytorch": {"image": "sha256:2", "notes": []}},
    "environment": {
        "architecture": "x86_64", "kernel": "6.1.0", "memory_bytes": 2**34,
        "gpus": [{"name": "a GPU", "driver": "570"}],
        "cpu": {"model": "a processor", "logical": 2, "physical": 2, "flags": ["avx2", "fma"]},
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    return tmp_path


def comparison(*, arms: tuple[str, ...] = ("tensorflow", "pytorch"), **changed: Any) -> Comparison:
    cells = [Cell(workload=Named("linear_regression"), framework=Named(name), device="cpu", **changed) for name in arms]
    whole = tuple(Arm(id=name, cell=cell) for name, cell in zip(arms, cells, strict=True))
    return Comparison(id="one", compare=("framework",), arms=whole, baseline=arms[0])


def record(certificate: Certificate = PASSED, **evaluations: Any) -> dict[str, Any]:
    return {"arm": "pytorch", **certificate.to_json(), "evaluations": evaluations}


def kept(header: dict[str, Any] = HEADER, one: Comparison | None = None) -> dict[str, Any]:
    return kept_certificates.of(header, one or comparison())


def keep(what: dict[str, Any] | None = None) -> None:
    one = comparison()
    kept_certificates.keep(HEADER, one, one.arms[1], what or record(pytorch={"accuracy": 0.9}))


def test_a_certificate_is_found_again_with_its_evaluations_and_its_date() -> None:
    assert kept() == {}
    keep()
    found = kept()["pytorch"]
    assert Certificate.from_json(found) == PASSED
    assert found["evaluations"] == {"pytorch": {"accuracy": 0.9}}


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    header = copy.deepcopy(HEADER)
    place = header
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return header


@pytest.mark.parametrize(
    "header",
    [
        changed(("harness",), "other"),
        changed(("workloads",), "other"),
        changed(("seed",), 1),
        changed(("data",), None),
        changed(("images", "pytorch", "image"), "sha256:3"),
        changed(("environment", "cpu", "model"), "another"),
        changed(("environment", "cpu", "flags"), ["avx2", "avx512f", "fma"]),
        changed(("environment", "gpus"), [{"name": "a GPU", "driver": "580"}]),
        changed(("environment", "gpus"), [{"name": "another GPU", "driver": "570"}]),
    ],
    ids=lambda header: json.dumps(header)[:20],
)
def test_where_anything_that_it_depends_on_changed_there_is_none(header: dict[str, Any]) -> None:
    keep()
    assert kept(header) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bench.measure.kept_certificates.np.__version__", "1.0"),
        ("bench.measure.kept_certificates._blas", lambda: {"name": "another"}),
        ("bench.measure.kept_certificates.sys.version", "3.99"),
    ],
)
def test_another_reference_or_library_proves_anew(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    keep()
    assert kept()
    monkeypatch.setattr(name, value)
    assert kept() == {}


def test_another_compiler_or_library_path_proves_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "own-c++"
    compiler.write_text("one")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    keep()
    assert kept()
    compiler.write_text("another")
    assert kept() == {}
    compiler.unlink()
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    assert kept() == {}


def test_the_same_cells_under_other_names_are_not_taken_for_these() -> None:
    keep()
    one = comparison()
    renamed = replace(
        one, arms=tuple(replace(arm, id=f"{arm.id}-eager") for arm in one.arms), baseline="tensorflow-eager"
    )
    assert kept(HEADER, renamed) == {}


def test_evaluations_that_have_become_longer_are_kept_and_shorter_ones_are_not() -> None:
    cut, longer, whole = {"steps": 20, "cut_from": 200}, {"steps": 60, "cut_from": 200}, {"steps": 200}
    keep(record(pytorch=cut))
    keep(record(replace(PASSED, kept=True), pytorch=longer))
    assert kept()["pytorch"]["evaluations"] == {"pytorch": longer}
    keep(record(replace(PASSED, kept=True), pytorch=cut))
    assert kept()["pytorch"]["evaluations"] == {"pytorch": longer}
    keep(record(replace(PASSED, kept=True), pytorch=whole))
    assert kept()["pytorch"]["evaluations"] == {"pytorch": whole}
    keep(record(replace(PASSED, kept=True), pytorch=cut))
    assert kept()["pytorch"]["evaluations"] == {"pytorch": whole}


@pytest.mark.parametrize("axis", [{"mode": "compiled"}, {"batch_size": 3}, {"phase": "infer"}, {"threads": 2}])
def test_another_cell_has_another(axis: dict[str, Any]) -> None:
    keep()
    assert kept(HEADER, comparison(**axis)) == {}


def test_words_change_nothing() -> None:
    keep()
    assert kept(changed(("images", "tensorflow", "notes"), ["y"]))


def test_a_comparison_is_proved_anew_where_one_of_its_contrasts_is_not_proved() -> None:
    keep()
    assert kept(HEADER, comparison(arms=("tensorflow", "pytorch", "sklearn"))) == {}


@pytest.mark.parametrize(
    "what",
    [
        record(replace(PASSED, status="failed")),
        record(replace(PASSED, status="unsupported", by="pytorch")),
        record(replace(PASSED, kept=True)),
        record(PASSED, pytorch={"failed": "it diverged"}),
    ],
    ids=["failed", "unsupported", "kept already", "failed evaluation"],
)
def test_only_what_passed_and_was_proved_now_is_kept(what: dict[str, Any], cache: Path) -> None:
    keep(what)
    assert list(cache.rglob("*.json")) == []


def test_a_damaged_one_is_none_and_is_replaced(cache: Path) -> None:
    keep()
    (path,) = cache.rglob("*.json")
    for damage in ("", "{", "[]", '{"schema": "other", "status": "passed"}'):
        path.write_text(damage)
        assert kept() == {}
    keep()
    assert kept()


def test_a_cache_that_cannot_be_written_harms_nothing(cache: Path) -> None:
    (cache / "certificates").write_text("a file where the folder should be")
    keep()
    assert kept() == {}
