"""The control channel: what a turn costs beside its slice."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from figures import Each

    from bench.launch.group import Group

QUESTIONS = 200
LIMIT_S = 10.0


def test_a_round_trip_to_a_local_worker(each: Each, stub: Group) -> None:
    """A question of no steps to a real worker process over its pipes, and the answer.

    Good: up to 1 ms. A turn pays one, outside the timed part: at slices of 10 ms it is what lockstep costs a run.
    """

    def ask() -> int:
        return sum(len(stub.ask("stub", "warm", limit_s=LIMIT_S, steps=0)["step_ns"]) for _ in range(QUESTIONS))

    assert each(ask, what="a round trip to a local worker", count=QUESTIONS, good_s=1e-3) == 0


def test_a_slice_of_one_empty_step(each: Each, stub: Group) -> None:
    """The same with a `measure` of one step of next to no work: the least time that a slice can take.

    Good: up to 1 ms; what it takes beyond an empty question is clocks, the check of the output and JSON.
    """

    def ask() -> int:
        args = {"steps": 1, "settle": 2, "sync": "slice"}
        return sum(len(stub.ask("stub", "measure", limit_s=LIMIT_S, **args)["step_ns"]) for _ in range(QUESTIONS))

    assert each(ask, what="a slice of one empty step", count=QUESTIONS, good_s=1e-3) == QUESTIONS
