"""What the worker's own loop adds to a step."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from workloads.contract import Cell, Named
from workloads.trial import Trial

if TYPE_CHECKING:
    from figures import Each

STEPS = 100_000
GOOD_S = 2e-6


@pytest.fixture
def empty() -> Trial:
    """A trial whose step does nothing at all."""
    modules: Any = SimpleNamespace()
    program: Any = SimpleNamespace(step=lambda i: None, fetch=lambda value: value)
    cell = Cell(workload=Named("empty"), framework=Named("empty"))
    return Trial(cell, "empty", 0, None, modules, modules, modules, program)


@pytest.mark.parametrize(
    ("loop", "what"),
    [(Trial._steps, "an empty step, timed by itself"), (Trial._slice, "an empty step inside a slice")],
    ids=["steps", "slice"],
)
def test_an_empty_step(each: Each, empty: Trial, loop: Callable[[Trial, int], Any], what: str) -> None:
    """All that the harness adds to a step: a call, and where steps are timed one by one two clocks and a fetch.

    Good: up to 2 µs a step, a thousandth of a step of 2 ms; it is in every time that is shown, the same for every arm.
    """
    answer = each(lambda: loop(empty, STEPS), what=what, count=STEPS, good_s=GOOD_S)
    assert len(cast("list[int]", answer)) == STEPS if loop is Trial._steps else answer > 0
    assert empty.position % STEPS == 0
    assert empty.position > 0
