"""Podman through its Docker-compatible interface: where it differs from Docker's, and what bench does about it.

Tried with Podman 4.3.1. All that differs is here; everything else speaks to both engines in the same words.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bench.engine.client import read_build
from bench.errors import EnvironmentUnavailable

if TYPE_CHECKING:
    import docker

_COMPONENT = "Podman Engine"
_BUILD_LIMIT_S = 600
_KILLED = 137  # exit status after signal 9


def is_podman(client: docker.DockerClient) -> bool:
    """Whether Podman answers as Docker."""
    return _version(client) is not None


def engine_version(client: docker.DockerClient) -> str:
    """The engine as a result names it: `podman 4.3.1`, and a bare version for Docker."""
    podman = _version(client)
    return f"podman {podman}" if podman else str(client.version()["Version"])


def refuse_gpu(client: docker.DockerClient) -> None:
    """Raises EnvironmentUnavailable on Podman, whose containers start without the GPU and nobody says so."""
    if is_podman(client):
        raise EnvironmentUnavailable(
            "device cuda: Podman's Docker-compatible interface accepts a request for a GPU and attaches none; "
            "point DOCKER_HOST at a Docker engine, or choose --launcher local or --device cpu"
        )


def build(
    client: docker.DockerClient, *, what: str, context: IO[bytes], tag: str, buildargs: dict[str, str],
    labels: dict[str, str],
) -> None:  # fmt: skip
    """Build without network and without images of single steps.

    Podman gives a build's labels to every step: one that was left would be taken for the finished image.
    Raises EnvironmentUnavailable: the build's error.
    """
    api: Any = client.api
    settings = {"buildargs": json.dumps(buildargs), "labels": json.dumps(labels)}
    with api.post(
        f"{api.base_url}/v{api.api_version}/build",
        params={"t": tag, "networkmode": "none", "layers": "false", **settings},
        data=context, headers={"Content-Type": "application/x-tar"}, stream=True, timeout=_BUILD_LIMIT_S,
    ) as answer:  # fmt: skip
        api._raise_for_status(answer)
        read_build((json.loads(line) for line in answer.iter_lines() if line), what=what)


class Ends:
    """How a container ended, in the words of Docker's events.

    Podman's events call `die` `died` in a filter, and with a moment to end at they may leave out what came last.
    None of them tells of a process that was killed for memory: the kernel's own count does, for the whole machine.
    """

    out_of_memory = "was killed while the kernel was killing for want of memory (Podman does not say whom)"

    def __init__(self, api: Any, container: str) -> None:
        """Before it starts."""
        self._api, self._container = api, container
        self._began_s, self._kills = int(time.time()), _memory_kills()

    def events(self) -> list[dict[str, Any]]:
        """What has happened so far: `oom` and `die` alone."""
        wanted = {"container": [self._container], "event": ["died"]}
        answer = self._api.get(
            f"{self._api.base_url}/v{self._api.api_version}/events",
            params={"since": self._began_s, "stream": "false", "filters": json.dumps(wanted)},
            timeout=self._api.timeout,
        )
        self._api._raise_for_status(answer)
        found: list[dict[str, Any]] = [json.loads(line) for line in answer.text.splitlines() if line]
        if any(int(event["Actor"]["Attributes"]["exitCode"]) == _KILLED for event in found):
            found += [{"Action": "oom"}] * (_memory_kills() > self._kills)
        return found


def _version(client: docker.DockerClient) -> str | None:
    parts = client.version().get("Components") or []
    return next((str(part["Version"]) for part in parts if part["Name"] == _COMPONENT), None)


def _memory_kills() -> int:
    """Processes that the kernel has killed for memory since the machine started, in any control group."""
    lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
