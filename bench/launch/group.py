"""The workers of one block: one question, one answer, within limits of time and size.

One thread and one selector: while any answer is awaited, what every worker says is read. Every few seconds all of them
hear a heartbeat, ahead of a question: later it would wake idle workers beside the one that is timed. Only where an
answer takes so long that the others would take their harness for dead do they hear one before it.
"""

from __future__ import annotations

import itertools
import selectors
import time
from typing import TYPE_CHECKING, Any

from bench.errors import WorkerFailed
from workloads.contract import HEARTBEAT, MESSAGE_LIMIT_BYTES, SILENCE_LIMIT_S, Answer, ContractError, Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.launch import Channel

HEARTBEAT_S = 5.0  # since the last one, ahead of a question
# Likewise, while an answer is awaited: half of the silence that a worker bears.
WAITING_HEARTBEAT_S = SILENCE_LIMIT_S / 2
HEARD_S = 0.005  # until idle workers have woken, read a heartbeat and stand still again: some 0.2 ms each
LOG_LIMIT_BYTES = 64 * 2**10


class Group:
    """Workers by arm. Use as a context manager: at the end every worker is removed, whatever happened."""

    def __init__(self) -> None:
        self._channels: dict[str, Channel] = {}
        self._selector = selectors.DefaultSelector()
        self._said: dict[str, bytearray] = {}
        self._searched: dict[str, int] = {}  # so far is no end of a line in what was said
        self._log: dict[str, bytearray] = {}
        self._ids = itertools.count(1)
        self._beat = time.monotonic()

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        for arm in list(self._channels):
            self.drop(arm)
        self._selector.close()

    def add(self, arm: str, channel: Channel) -> None:
        """Take a started worker into the group."""
        self._channels[arm] = channel
        self._said[arm], self._log[arm], self._searched[arm] = bytearray(), bytearray(), 0
        for fileno in channel.filenos():
            self._selector.register(fileno, selectors.EVENT_READ, arm)

    def drop(self, arm: str) -> None:
        """Remove one worker."""
        channel = self._channels.pop(arm)
        for key in [key for key in self._selector.get_map().values() if key.data == arm]:
            self._selector.unregister(key.fd)
        channel.remove()

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that have a worker."""
        return tuple(self._channels)

    def channel(self, arm: str) -> Channel:
        """The arm's worker."""
        return self._channels[arm]

    def log(self, arm: str) -> str:
        """The end of what the worker wrote to stderr."""
        return self._log[arm].decode("utf-8", "replace")

    def settle(self) -> None:
        """Before anything that is timed: a heartbeat that is due goes out, and what it wakes stands still again."""
        self._heartbeat(HEARTBEAT_S)
        time.sleep(max(0.0, self._beat + HEARD_S - time.monotonic()))

    def ask(self, arm: str, verb: str, *, limit_s: float, **args: Any) -> dict[str, Any]:
        """One question to one worker. Raises WorkerFailed."""
        answer = self.ask_all({arm: args}, verb, limit_s=limit_s)[arm]
        if isinstance(answer, WorkerFailed):
            raise answer
        return answer

    def ask_all(
        self, questions: Mapping[str, Mapping[str, Any]], verb: str, *, limit_s: float
    ) -> dict[str, dict[str, Any] | WorkerFailed]:
        """The same verb to several workers at once; each answers, or fails by itself."""
        self.settle()
        waiting: dict[str, int] = {}
        answers: dict[str, dict[str, Any] | WorkerFailed] = {}
        for arm, args in questions.items():
            request = Request(id=next(self._ids), verb=verb, args=dict(args))
            try:
                self._channels[arm].send(request.encode())
                waiting[arm] = request.id
            except OSError:
                answers[arm] = self._ended(arm, verb)
        deadline = time.monotonic() + limit_s
        while waiting:
            if time.monotonic() > deadline:
                words = f"gave no answer to {verb} in {limit_s:.0f} s"
                return answers | {arm: self._failed(arm, "hung", words) for arm in waiting}
            self._heartbeat(WAITING_HEARTBEAT_S)
            self._read(max(0.0, min(deadline, self._beat + WAITING_HEARTBEAT_S) - time.monotonic()))
            for arm in list(waiting):
                outcome = self._outcome(arm, waiting[arm], verb)
                if outcome is not None:
                    answers[arm] = outcome
                    del waiting[arm]
        self._heartbeat(HEARTBEAT_S)  # what is made of an answer that took long may take long too
        return answers

    def _outcome(self, arm: str, expected: int, verb: str) -> dict[str, Any] | WorkerFailed | None:
        """The answer to `expected` if it is there, a failure if the worker broke the contract, else None."""
        said = self._said[arm]
        end = said.find(b"\n", self._searched[arm])
        self._searched[arm] = len(said) if end < 0 else 0
        if (end if end >= 0 else len(said)) > MESSAGE_LIMIT_BYTES:
            return self._failed(arm, "flooded", f"said over {MESSAGE_LIMIT_BYTES >> 20} MiB in one message")
        if end < 0:
            return self._ended(arm, verb) if self._is_over(arm) else None
        line = bytes(said[:end])
        del said[: end + 1]
        try:
            answer = Answer.decode(line)
        except ContractError as error:
            return self._failed(arm, "garbage", f"broke the contract: {error}")
        if answer.error is not None:
            return self._failed(arm, answer.kind or "failed", answer.error)
        if answer.id != expected:
            return self._failed(arm, "garbage", f"broke the contract: answer {answer.id} where {expected} was asked")
        return answer.result or {}

    def _is_over(self, arm: str) -> bool:
        return not any(key.data == arm for key in self._selector.get_map().values())

    def _read(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            arm = key.data
            chunks = self._channels[arm].receive(key.fd)
            if chunks is None:
                self._selector.unregister(key.fd)
                continue
            out, err = chunks
            if len(self._said[arm]) <= MESSAGE_LIMIT_BYTES:
                self._said[arm] += out
            self._log[arm] = (self._log[arm] + err)[-LOG_LIMIT_BYTES:]

    def _heartbeat(self, after_s: float) -> None:
        """Let all hear one, where the last is so long ago."""
        if time.monotonic() - self._beat < after_s:
            return
        self._beat = time.monotonic()
        for channel in self._channels.values():
            try:
                channel.send(HEARTBEAT.encode())
            except OSError:
                continue  # it has ended; the next question to it says so

    def _ended(self, arm: str, verb: str) -> WorkerFailed:
        self._read(0.2)  # its last words
        kind, words = self._channels[arm].fate()
        return self._failed(arm, kind, f"{words} while asked to {verb}")

    def _failed(self, arm: str, kind: str, words: str) -> WorkerFailed:
        return WorkerFailed(f"{arm}: {words}", kind=kind, log=self.log(arm))
