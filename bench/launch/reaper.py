"""Removes a run's containers when the harness dies without a word.

The workers end by themselves, but the engine keeps an ended container until somebody removes it. This process waits on
a pipe that only the harness holds, and costs nothing while it waits.

    python -m bench.launch.reaper RUN_ID OWNER        stdin: `done` when there is nothing to remove, else its end

It removes what its own harness made, and nothing of one that has resumed the run meanwhile. Where the engine is away,
it waits for it longer than a worker lives without a word.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from bench import child, storage
from bench.engine import owner
from workloads.contract import SILENCE_LIMIT_S

if TYPE_CHECKING:
    import docker

DONE = b"done"
REMOVAL_LIMIT_S = 30
SWEEPS = 4
PATIENCE_S = 2 * SILENCE_LIMIT_S


class Reaper:
    """The harness's end of it."""

    def __init__(self, run_id: str) -> None:
        """Raises ProcessRefused."""
        command = [sys.executable, "-m", "bench.launch.reaper", run_id, owner.mine()]
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


def sweep(client: docker.DockerClient, run_id: str, *, whose: str | None = None) -> int:
    """Remove all containers and data of a run, or those that one harness of it made; returns how many containers."""
    labels = [f"bench.run={run_id}", *([f"{owner.LABEL}={whose}"] if whose else [])]
    left = client.api.containers(all=True, filters={"label": labels})
    for container in left:
        force_away(client.api, container["Id"])
    _sweep_data(client.api, labels, whose)
    return len(left)


def _sweep_data(api: Any, labels: list[str], whose: str | None) -> None:
    """Remove volumes and images that hold a run's data: of one harness, or of those that have ended.

    Another launcher of a living harness may hold its data under the same run. One in use is passed over.
    """
    from docker.errors import APIError

    def may_go(made: dict[str, str]) -> bool:
        return whose is not None or owner.is_gone(made.get(owner.LABEL, ""))

    for volume in api.volumes(filters={"label": labels})["Volumes"] or []:
        if may_go(volume["Labels"]):
            with suppress(APIError):
                api.remove_volume(volume["Name"], force=True)
    for image in api.images(filters={"label": labels}):
        if "bench.data" in image["Labels"] and may_go(image["Labels"]):
            with suppress(APIError):
                api.remove_image(image["Id"], force=True)


def dead(client: docker.DockerClient) -> list[dict[str, Any]]:
    """Containers whose harness has surely ended, of any run; not those of a living one, or of another machine."""
    ours = client.api.containers(all=True, filters={"label": ["bench.run", owner.LABEL]})
    return [container for container in ours if owner.is_gone(container["Labels"][owner.LABEL])]


def sweep_dead(client: docker.DockerClient) -> list[dict[str, Any]]:
    """Remove them; returns what they were."""
    left = dead(client)
    for container in left:
        force_away(client.api, container["Id"])
    return left


def force_away(api: Any, container: str) -> None:
    """Remove a container, running or not, and its unnamed volumes; returns when it is gone, whoever removed it."""
    from docker.errors import APIError, NotFound

    with suppress(NotFound):
        try:
            api.remove_container(container, force=True, v=True)
        except APIError as error:
            if error.status_code != HTTPStatus.CONFLICT:
                raise
            api.wait(container, timeout=REMOVAL_LIMIT_S, condition="removed")  # the engine is at it


if __name__ == "__main__":
    main()
