"""The harness's own loops against bare ones over the same steps, in one process: `bench validate` asks a worker this.

A stub cannot show what the harness adds around a framework. Here the steps are a framework's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workloads.trial import Trial


def against_bare(trial: Trial, *, pairs: int, steps: int, sync: str) -> dict[str, Any]:
    """Turns of `steps` steps, pair by pair in random order: one as `measure` times it, one that but calls and fetches.

    sync     step: every output is fetched; slice: those that a slice fetches (`Trial.reads_each`), and the last one
    returns  harness_ns, bare_ns (pairs,): what a turn took by each, of `step` the sum of its steps
    """
    draw = random.Random(trial.seed)  # noqa: S311 - replayable on purpose
    singly = sync == "step"
    turns: dict[str, Callable[[], int]] = {
        "harness_ns": lambda: sum(trial._steps(steps)) if singly else trial._slice(steps),
        "bare_ns": lambda: _bare(trial, steps, each=singly or trial.reads_each),
    }
    found: dict[str, list[int]] = {name: [] for name in turns}
    for _ in range(pairs):
        for name in draw.sample(list(turns), len(turns)):
            found[name].append(turns[name]())
            trial.kept = trial.kept[-1:]
    trial._check_kept()
    return found


def _bare(trial: Trial, count: int, *, each: bool) -> int:
    """As anybody would write it, in ns."""
    step, fetch, first = trial.program.step, trial.program.fetch, trial.position
    before = time.perf_counter_ns()
    if each:
        for i in range(first, first + count):
            output = step(i)
            fetch(output)
    else:
        for i in range(first, first + count):
            output = step(i)
        fetch(output)
    total = time.perf_counter_ns() - before
    trial.kept, trial.position = [(first + count - 1, output)], first + count
    return total
