"""What the micro-benchmarks share: one way to measure, a real worker, and the list of figures at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from figures import Each, Figure

from bench.launch.group import Group
from bench.launch.local import LocalChannel, start_process
from bench.paths import worker_root
from workloads.contract import STUB, Cell, Named

OPEN_LIMIT_S = 60.0
FIGURES = pytest.StashKey[list[Figure]]()


@pytest.fixture
def each(benchmark: Any, request: pytest.FixtureRequest) -> Each:
    """Time `function`, which does `count` of one thing; returns what its last call returned."""

    def measure(function: Callable[[], Any], *, what: str, good_s: float, count: int = 1, rounds: int = 20) -> Any:
        answer = benchmark.pedantic(function, rounds=rounds, warmup_rounds=min(1, rounds - 1))
        if benchmark.enabled:
            found = benchmark.stats.stats
            figure = Figure(what=what, median_s=found.median / count, least_s=found.min / count, good_s=good_s)
            request.config.stash.setdefault(FIGURES, []).append(figure)
        return answer

    return measure


@pytest.fixture
def quick(benchmark: Any) -> bool:
    """Nothing is timed (`--benchmark-disable`): little data will do."""
    return not benchmark.enabled


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[LocalChannel]:
    """A real local worker, not yet opened."""
    channel = start_process(Path(sys.executable), root=worker_root(), cache=tmp_path, padding=0)
    yield channel
    channel.remove()


@pytest.fixture
def stub(worker: LocalChannel) -> Iterator[Group]:
    """A group of one worker, `stub`, opened."""
    cell = Cell(workload=Named.of(STUB, {"bytes": 64}), framework=Named(STUB), device="cpu").to_json()
    with Group() as group:
        group.add("stub", worker)
        group.ask("stub", "open", limit_s=OPEN_LIMIT_S, cell=cell, framework=STUB, seed=0, data=None, cpus=[])
        yield group


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Every figure beside the most that is good; each benchmark's docstring says why."""
    figures = config.stash.get(FIGURES, [])
    if figures:
        terminalreporter.section("figures: medians over rounds")
        for figure in figures:
            terminalreporter.write_line(str(figure))
