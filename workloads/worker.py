"""The worker: one trial, inside a container or a virtual environment; standard library, NumPy and one framework.

    python -m workloads.worker          questions on stdin, answers on stdout, JSON lines as in workloads.contract

The real stdout is kept for the contract: descriptor 1 is pointed at stderr before anything else is imported, so that
no framework's chatter can corrupt a message. A worker whose stdin closes, or that hears nothing for a while, ends.
"""

from __future__ import annotations

import os
import queue
import resource
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from workloads.contract import (
    HEARTBEAT,
    MESSAGE_LIMIT_BYTES,
    SILENCE_LIMIT_S,
    STUB,
    Answer,
    ContractError,
    GpuAbsent,
    Request,
    Unsupported,
)

if TYPE_CHECKING:
    from workloads.trial import Trial

Verb = Callable[..., dict[str, Any]]

TRACED = ("parity", "horizon", "closing", "piece")  # of workloads.tracing

_HEARTBEAT = HEARTBEAT.encode().rstrip(b"\n")


def main() -> int:
    """Answer until `close` or the end of stdin."""
    private = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    requests: queue.SimpleQueue[Request | ContractError] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    verbs: dict[str, Verb] = {}
    while True:
        request = requests.get()
        if isinstance(request, ContractError):
            _say(private, Answer(id=-1, error=str(request), kind="contract"))
            return 1
        _say(private, _answer(request, verbs))
        if request.verb == "close":
            return 0


def _listen(requests: queue.SimpleQueue[Request | ContractError]) -> None:
    """Read questions and heartbeats; end the process when the harness is gone or silent."""
    buffer = b""
    while True:
        ready, _, _ = select.select([0], [], [], SILENCE_LIMIT_S)
        chunk = os.read(0, 65536) if ready else b""
        if not chunk:  # closed, or nothing heard for too long: nobody waits for an answer
            os._exit(0)
        buffer += chunk
        *lines, buffer = buffer.split(b"\n")
        if len(buffer) > MESSAGE_LIMIT_BYTES:
            requests.put(ContractError(f"a request of over {MESSAGE_LIMIT_BYTES} bytes"))
        for line in lines:
            if line == _HEARTBEAT:  # it has been heard: no work beside another arm's
                continue
            try:
                requests.put(Request.decode(line))
            except ContractError as error:
                requests.put(error)


def _answer(request: Request, verbs: dict[str, Verb]) -> Answer:
    try:
        if request.verb == "open":
            result = _open(verbs, **request.args)
        elif request.verb not in verbs:
            raise ContractError(f"verb {request.verb!r} is unknown, or came before open")
        else:
            result = verbs[request.verb](**request.args)
    except Unsupported as error:
        return Answer(id=request.id, error=str(error), kind="unsupported")
    except GpuAbsent as error:
        return Answer(id=request.id, error=str(error), kind="no_gpu")
    except Exception as error:
        traceback.print_exc()
        return Answer(id=request.id, error=f"{type(error).__name__}: {error}", kind="failed")
    return Answer(id=request.id, result=result)


def _open(verbs: dict[str, Verb], *, cpus: list[int], gpu: str | None = None, **args: Any) -> dict[str, Any]:
    """Take the processors asked for, before any library starts a thread; find the GPU; then build the trial.

    gpu  the UUID of the one that was asked of the engine; None where none was
    """
    if cpus:
        os.sched_setaffinity(0, cpus)
    if verbs:
        raise ContractError("open was asked twice")
    started_ns = time.perf_counter_ns()
    from workloads.bare import against_bare, one_against_all

    trial, result = _trial_class(args["framework"]).open(**args, gpu=_seen(gpu) if gpu else None)
    verbs.update(
        warm=trial.warm,
        measure=trial.measure,
        soak=trial.soak,
        against_bare=partial(against_bare, trial),
        one_against_all=partial(one_against_all, trial),
        evaluate=trial.evaluate,
        close=_close(trial.peaks),
    )
    if args["framework"] != STUB:  # of which there is nothing to prove: its work differs on purpose
        from workloads import tracing

        verbs.update({verb: partial(getattr(tracing, verb), trial) for verb in TRACED})
        verbs["closing"] = partial(_closing, verbs, trial)
    return {**result, "open_s": (time.perf_counter_ns() - started_ns) / 1e9, "pid": os.getpid()}


def _seen(gpu: str) -> dict[str, str]:
    """The GPU as it is seen from here, before any framework is imported. Raises GpuAbsent."""
    from workloads.gpu import find

    return find(gpu)


def _trial_class(framework: str) -> type[Trial]:
    """The trial, imported when it is opened: a library must not start a thread before that."""
    if framework == STUB:
        from workloads.stub.trial import StubTrial

        return StubTrial
    from workloads.trial import Trial

    return Trial


def _close(peaks: Callable[[], dict[str, Any]]) -> Verb:
    def close() -> dict[str, Any]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            **peaks(),
            "max_rss_bytes": _peak_rss_bytes(),
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "involuntary_switches": usage.ru_nivcsw,
            "voluntary_switches": usage.ru_nvcsw,
            "major_faults": usage.ru_majflt,
        }

    return close


def _closing(verbs: dict[str, Verb], trial: Trial, **asked: Any) -> dict[str, Any]:
    """To look at the weights takes memory and time that are not the trial's: its last figures are of before."""
    from workloads import tracing

    figures = verbs["close"]()
    verbs["close"] = lambda: figures
    return tracing.closing(trial, **asked)


def _peak_rss_bytes() -> int:
    """VmHWM: getrusage's ru_maxrss keeps the peak of whoever forked this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def _say(out: BinaryIO, answer: Answer) -> None:
    """One whole line; an answer that is larger than the contract allows, or no JSON, becomes an error."""
    try:
        data = answer.encode()
    except ValueError as error:  # a figure that is not finite
        data = Answer(id=answer.id, error=f"an answer that is no JSON: {error}", kind="failed").encode()
    if len(data) > MESSAGE_LIMIT_BYTES:
        size, most = len(data) >> 20, MESSAGE_LIMIT_BYTES >> 20
        told = f"an answer of {size:,} MiB, where {most:,} are the most that is sent; take a smaller model or batch"
        data = Answer(id=answer.id, error=told, kind="unsupported").encode()
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]


if __name__ == "__main__":
    sys.exit(main())
