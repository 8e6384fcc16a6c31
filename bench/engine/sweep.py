"""Removes what dead harnesses left with an engine, and nothing of a living one."""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from bench.engine import owner

if TYPE_CHECKING:
    import docker

REMOVAL_LIMIT_S = 30


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
