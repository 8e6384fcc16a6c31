"""The harness's own loops against bare ones over the same steps, in one process: `bench validate` asks a worker this.

A stub cannot show what the harness adds around a framework. Here the steps are a framework's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workloads.trial import Trial


def against_bare(trial: Trial, *, pairs: int, steps: int, sync: str) -> dict[str, Any]:
    """Turns of `steps` steps, pair by pair in random order: one as `measure` times it, one that but calls and fetches.

    sync     step: every output is fetched; slice: those that a slice fetches (`Trial.reads_each`), and the last one
    returns  harness_ns, bare_ns (pairs,): what a turn took by each, of `step` the sum of its steps
    """
    singly = sync == "step"
    each = singly or trial.reads_each
    turns: dict[str, Callable[[], int]] = {
        "harness_ns": lambda: sum(trial._steps(steps)) if singly else trial._slice(steps),
        "bare_ns": lambda: _bare(trial, steps, each=each),
    }
    return _in_turns(trial, turns, pairs)


def one_against_all(trial: Trial, *, pairs: int, steps: int) -> dict[str, Any]:
    """Turns of `steps` steps on one batch again and again, and on the whole pool: what is computed anew takes as long.

    returns  one_ns, all_ns (pairs,): what a turn took
    """
    turns: dict[str, Callable[[], int]] = {
        "one_ns": lambda: _bare(trial, steps, each=trial.reads_each, again=True),
        "all_ns": lambda: _bare(trial, steps, each=trial.reads_each),
    }
    return _in_turns(trial, turns, pairs)


def _in_turns(trial: Trial, turns: Mapping[str, Callable[[], int]], pairs: int) -> dict[str, Any]:
    draw = random.Random(trial.seed)  # noqa: S311 - replayable on purpose
    found: dict[str, list[int]] = {name: [] for name in turns}
    for _ in range(pairs):
        for name in draw.sample(list(turns), len(turns)):
            found[name].append(turns[name]())
            trial.kept = trial.kept[-1:]
    trial._check_kept()
    return found


def _bare(trial: Trial, count: int, *, each: bool, again: bool = False) -> int:
    """As anybody would write it, in ns; `again`: every step on the batch of the first."""
    call, fetch, first = trial.program.step, trial.program.fetch, trial.position
    step: Callable[[int], Any] = (lambda _: call(first)) if again else call
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
    trial.kept = [(first if again else first + count - 1, output)]
    trial.position = first + count
    return total
