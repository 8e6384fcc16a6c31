"""Load beside a validation: processes that it starts itself, and that surely end, whatever becomes of it.

What other people's programs do to a measurement, on purpose. The processes are killed at the end of the `with`; after a
`kill -9` of the harness they end by themselves within one period.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import storage
from bench.errors import BenchError
from bench.validate import busy

SHARE, PERIOD_S = 0.25, 0.2  # 50 ms of every 200 ms


@contextmanager
def bursts(
    share: float = SHARE, *, cpus: Iterable[int] | None = None, period_s: float = PERIOD_S, seed: int = 0
) -> Iterator[tuple[int, ...]]:
    """One process a CPU, which takes `share` of it in bursts of random phase; gives their pids.

    cpus    by default all that this process may use
    raises  BenchError: one does not start
    """
    chosen = sorted(os.sched_getaffinity(0) if cpus is None else cpus)
    with ExitStack() as stack:
        yield tuple(stack.enter_context(_busy(cpu, share, period_s, seed)) for cpu in chosen)


@contextmanager
def pinned(cpu: int) -> Iterator[int]:
    """One process that keeps this CPU busy; gives its pid. Raises BenchError: it does not start."""
    with _busy(cpu, 1.0, PERIOD_S, 0) as pid:
        yield pid


@contextmanager
def _busy(cpu: int, share: float, period_s: float, seed: int) -> Iterator[int]:
    """A process of its own session: an interrupt is the harness's business, which ends it."""
    program = [sys.executable, "-I", "-S", str(Path(busy.__file__))]
    try:
        process = subprocess.Popen(
            [*program, str(os.getpid()), str(cpu), str(share), str(period_s), f"{seed}/{cpu}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise storage.process_refused(f"a load on CPU {cpu}", error, remedy="see bench check") from None
    try:
        assert process.stdout
        assert process.stderr
        if process.stdout.readline() != b"busy\n":
            said = process.stderr.read().decode("utf-8", "replace").strip().splitlines()[-1:]
            raise BenchError(f"no load on CPU {cpu}: {' '.join(said) or 'the process ended'}; see bench check")
        yield process.pid
        if process.poll() is not None:
            raise BenchError(f"the load on CPU {cpu} ended before the measurement beside it; measure again")
    finally:
        process.kill()
        process.communicate()
