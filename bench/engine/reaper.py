"""Removes a run's containers when the harness dies without a word.

The workers end by themselves, but the engine keeps an ended container until somebody removes it. This process waits on
a pipe that only the harness holds, and costs nothing while it waits.

    python -m bench.engine.reaper RUN_ID OWNER        stdin: `done` when there is nothing to remove, else its end

It removes what its own harness made, and nothing of one that has resumed the run meanwhile. Where the engine is away,
it waits for it longer than a worker lives without a word.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import closing, suppress

from bench import child, storage
from bench.engine import owner
from bench.engine.sweep import sweep
from workloads.contract import SILENCE_LIMIT_S

DONE = b"done"
SWEEPS = 4
PATIENCE_S = 2 * SILENCE_LIMIT_S


class Reaper:
    """The harness's end of it."""

    def __init__(self, run_id: str) -> None:
        """Raises ProcessRefused."""
        command = [sys.executable, "-m", "bench.engine.reaper", run_id, owner.mine()]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True, env=child.environment(),
            )  # fmt: skip
        except OSError as error:
            remedy = "install bench again"
            raise storage.process_refused(f"the reaper with {sys.executable}", error, remedy=remedy) from None

    def dismiss(self) -> None:
        """Nothing is left to remove."""
        try:
            self._process.communicate(DONE, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()


def main() -> None:
    """Wait for the harness's word or its end; interrupts are the harness's business."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read() == DONE:
        return
    from bench.engine.client import engine
    from bench.engine.words import LOST
    from bench.errors import EnvironmentUnavailable

    _, run_id, whose = sys.argv
    swept, deadline = 0, time.monotonic() + PATIENCE_S
    while swept < SWEEPS and time.monotonic() < deadline:  # the engine may still be creating what was asked for last
        with suppress(EnvironmentUnavailable, *LOST), closing(engine()) as client:
            sweep(client, run_id, whose=whose)
            swept += 1
        time.sleep(1)


if __name__ == "__main__":
    main()
