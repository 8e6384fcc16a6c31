"""What tests share: markers that mean what they say, small matrices, and copies of the code that may be broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nvml_stub as nvml_stubs
import pytest
from absent import absent

from bench.errors import BenchError

REPOSITORY = Path(__file__).resolve().parents[1]
TIERS = {
    "first": "what a newcomer runs: each essential claim once, in minutes",
    "second": "the rest of what CI runs",
    "nightly": "what takes too long for every change, or shows at another depth what a quicker test shows",
}

Edit = Callable[[Path, str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--tier`; docs/testing.md says which promise stands in which."""
    told = "; ".join(f"{tier}: {what}" for tier, what in TIERS.items())
    told += "; all. By default first, or all of the paths that are named"
    parser.addoption("--tier", choices=(*TIERS, "all"), help=told)


def pytest_configure(config: pytest.Config) -> None:
    """Markers by which a test stands in another tier than its folder: tests/unit is the first, others the second."""
    for tier, what in TIERS.items():
        config.addinivalue_line("markers", f"{tier}: {what}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what stands in another tier."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    wanted = config.getoption("--tier") or ("all" if named else "first")
    if wanted == "all":
        return
    out = [item for item in items if tier_of(item) != wanted]
    items[:] = [item for item in items if tier_of(item) == wanted]
    config.hook.pytest_deselected(items=out)


def tier_of(item: pytest.Item) -> str:
    """The tier of the marker that is nearest to the test, or else of its folder."""
    marked = (marker.name for marker in item.iter_markers() if marker.name in TIERS)
    return next(marked, "first" if (REPOSITORY / "tests/unit") in item.path.parents else "second")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose engine or frameworks are absent, with the reason; fail it where they are required."""
    absences = {"docker": _no_engine, "podman": _no_podman, "framework": _no_frameworks, "network": _no_index}
    for marker, absence in absences.items():
        if item.get_closest_marker(marker) and (reason := absence()):
            absent(reason)


@cache
def _no_engine() -> str | None:
    from bench.engine.client import engine

    try:
        engine().close()
    except BenchError as reason:
        return str(reason)
    return None


@cache
def _no_podman() -> str | None:
    if not shutil.which("podman"):
        return "podman is not installed; sudo apt-get install podman"
    return None if os.geteuid() == 0 else "podman is tried as root only"


@cache
def _no_frameworks() -> str | None:
    """Their environments are made here on first use, which takes minutes."""
    from bench.provision.venv import environment

    try:
        for framework in ("tensorflow", "pytorch"):
            environment(framework=framework, progress=print)
    except BenchError as reason:
        return str(reason)
    return None


@cache
def _no_index() -> str | None:
    probe = ["download", "--quiet", "--no-deps", "--no-cache-dir", "--retries=0", "--timeout=10", "iniconfig"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", *probe, "--disable-pip-version-check", f"--dest={folder}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"no package index answers: {' '.join(done.stderr.split())[:200]}" if done.returncode else None


@pytest.fixture(scope="session")
def nvml_stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libnvidia-ml.so.1 that replays a trace: what LD_LIBRARY_PATH takes."""
    if reason := nvml_stubs.absence():
        absent(str(reason))
    return nvml_stubs.build(tmp_path_factory.mktemp("nvml")).parent


@pytest.fixture(scope="session")
def matrix_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a matrix of these workloads, TensorFlow against PyTorch in training: small, and over in a minute."""
    folder = tmp_path_factory.mktemp("matrices")

    def write(
        *workloads: str, blocks: int = 2, batch_size: int = 64, name: str = "small", budget: str = "total: 10m"
    ) -> Path:
        axes = f"axes: {{workload: [{', '.join(workloads or (CLASSIC,))}], batch_size: [{batch_size}]}}"
        path = folder / f"{name}.yaml"
        path.write_text(f"name: {name}\n{axes}\nbudget: {{blocks: {blocks}, {budget}}}\nseed: 7\n")
        return path

    return write


CLASSIC = "{name: linear_regression, preset: classic, evaluate_steps: 20}"


@pytest.fixture(scope="session")
def source_tree(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Make a copy of the program, to break: the packages and the images' recipes."""

    def copy() -> Path:
        tree = tmp_path_factory.mktemp("tree")
        for package in ("bench", "workloads", "images"):
            shutil.copytree(REPOSITORY / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
        return tree

    return copy


@pytest.fixture(scope="session")
def calm_tree(source_tree: Callable[[], Path], edit: Edit) -> Callable[[], Path]:
    """Copies of the program for which no machine is too busy, where what spoils a block is no part of a test."""

    def copy() -> Path:
        tree = source_tree()
        judged = "    found = [reason for facts in stretches for reason in _of_machine(facts)]\n"
        edit(tree / "bench/measure/gates.py", judged, "    return []\n" + judged)
        return tree

    return copy


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in this process."""
    from bench.measure import gates

    monkeypatch.setattr(gates, "reasons", lambda stretches: [])


@pytest.fixture(scope="session")
def borrowed_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the user's environments and data, in which broken workloads may be staged."""
    from bench.paths import cache_root

    folder = tmp_path_factory.mktemp("cache")
    for name in ("environments", "data"):
        if (cache_root() / name).is_dir():
            (folder / name).symlink_to(cache_root() / name)
    return folder


@pytest.fixture(scope="session")
def edit() -> Edit:
    """Replace the one place where a file says `old`; a test that would change nothing fails."""

    def replace(path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert text.count(old) == 1, f"{path.name} says {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new))

    return replace
