"""A process that keeps one CPU busy, in bursts or for good; run as a script, by the standard library alone.

    python -I -S busy.py PARENT CPU SHARE PERIOD_S SEED      says `busy` on stdout when it begins

SHARE of each period of PERIOD_S it computes, from a random moment on; 1 is for good. The share is of CPU time, up to
the period's end: where somebody else has the CPU too, a burst lasts longer. It ends by itself as soon as PARENT is no
longer its parent, which it looks at every millisecond that it computes: nothing has to be told or closed.
"""

from __future__ import annotations

import os
import random
import sys
import time

CHUNK_S = 0.001


def main() -> None:
    """Take the CPU, and compute until the parent is gone."""
    parent, cpu, share, period_s, seed = sys.argv[1:]
    os.sched_setaffinity(0, {int(cpu)})
    print("busy", flush=True)
    burst(parent=int(parent), busy_s=float(share) * float(period_s), period_s=float(period_s), seed=seed)


def burst(*, parent: int, busy_s: float, period_s: float, seed: str) -> None:
    """One burst a period, at a moment drawn anew each time."""
    draw = random.Random(seed)  # noqa: S311 - replayable on purpose
    begins = time.monotonic()
    while os.getppid() == parent:
        ends = begins + period_s
        wait_until(begins + draw.uniform(0.0, period_s - busy_s))
        computed = time.process_time() + busy_s
        while time.process_time() < computed and time.monotonic() < ends and os.getppid() == parent:
            spin(CHUNK_S)
        if busy_s < period_s:
            wait_until(ends)
        begins = max(ends, time.monotonic())


def wait_until(moment: float) -> None:
    """Sleep until then, and not at all where it has passed: a sleep of nothing takes a while."""
    left = moment - time.monotonic()
    if left > 0:
        time.sleep(left)


def spin(seconds: float) -> None:
    """Compute for so long by the clock."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


if __name__ == "__main__":
    main()
