"""The Docker engine: whether one answers, and one sentence where it does not."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import docker
from docker.context import ContextAPI
from docker.errors import DockerException

from bench.engine_errors import LOST, explained, unreachable
from bench.errors import EnvironmentUnavailable

STAGE = "bench.stage"  # label of a stage that only a build needs; its value says whose it is
_PING_LIMIT_S = 5
_CALL_LIMIT_S = 600
_COLOURS = r"\x1b\[[0-9;]*m"
_BUILDER_OWN_WORDS = r"\s*$|Step \d|\s*--->|Removing intermediate"
_DEFAULT_SOCKET = "unix:///var/run/docker.sock"
_SAID = tuple(one for one in LOST if one is not OSError)  # a file that cannot be written is not the engine's


def engine(*, timeout_s: int = _CALL_LIMIT_S) -> docker.DockerClient:
    """A client of the engine that the docker command would use; the caller closes it.

    raises  EnvironmentUnavailable: no engine runs, or this user may not talk to it
    """
    where = address()
    try:
        with _closing(docker.DockerClient(base_url=where, timeout=_PING_LIMIT_S)) as probe:
            probe.ping()
        return docker.DockerClient(base_url=where, timeout=timeout_s)
    except (*LOST, ValueError) as error:
        raise EnvironmentUnavailable(unreachable(where, error)) from None


@contextmanager
def one_sentence(doing: str, client: docker.DockerClient | None = None) -> Iterator[None]:
    """Turn any error of the engine inside the block into EnvironmentUnavailable, which names what was being done.

    client  where it is given, a full disk is told with its size
    """
    try:
        yield
    except _SAID as error:
        raise EnvironmentUnavailable(f"the Docker engine failed while {doing}: {explained(error, client)}") from None


def run_build(client: docker.DockerClient, *, what: str, **options: Any) -> str:
    """Build an image and give its id; the builder's messages are read to their end, so that the connection closes.

    raises  EnvironmentUnavailable: the build's error, after the last thing that it printed
    """
    printed, failed, built = "", "", ""
    for message in client.api.build(rm=True, forcerm=True, decode=True, **options):
        text = re.sub(_COLOURS, "", message.get("stream", ""))
        if not re.match(_BUILDER_OWN_WORDS, text):
            printed = (printed + text)[-300:]  # what a command prints comes in fragments
        failed = failed or message.get("error", "").strip()
        built = message.get("aux", {}).get("ID", built)
    if failed:
        failed = printed if "no space left" in printed.lower() else failed
        raise EnvironmentUnavailable(f"{what} cannot be built: {_line(printed)} ({explained(failed, client)})")
    return str(built)


def buildkit(
    client: docker.DockerClient, *, context: IO[bytes], tag: str, buildargs: dict[str, str], labels: dict[str, str]
) -> bool:
    """Build without network by BuildKit, in a third of the legacy builder's time; False where this engine does not.

    docker-py speaks to the legacy builder only, but the engine's own interface takes the same tar for both.
    BuildKit tells its log in a format of its own: after False, the legacy builder says in words what is wrong.
    """
    api = client.api
    settings = {"buildargs": json.dumps(buildargs), "labels": json.dumps(labels)}
    before = {entry["ID"] for entry in _build_cache(client)}
    with api.post(
        f"{api.base_url}/v{api.api_version}/build",
        params={"version": "2", "t": tag, "networkmode": "none", **settings},
        data=context, headers={"Content-Type": "application/x-tar"}, stream=True, timeout=_CALL_LIMIT_S,
    ) as answer:  # fmt: skip
        done = answer.ok and not any(b'"error' in line for line in answer.iter_lines())
    for entry in sorted(_build_cache(client), key=lambda entry: str(entry["CreatedAt"]), reverse=True):
        if entry["ID"] not in before and not entry["InUse"]:
            # Gigabytes that no later build would use. The stubs know fewer filters than the engine.
            api.prune_builds(filters={"id": entry["ID"]}, all=True)  # type: ignore[arg-type]
    return done


def _build_cache(client: docker.DockerClient) -> list[dict[str, Any]]:
    return list(client.df().get("BuildCache") or [])


def address() -> str:
    """DOCKER_HOST, or the docker command's current context, or the usual socket."""
    if os.environ.get("DOCKER_HOST"):
        return os.environ["DOCKER_HOST"]
    try:
        context = ContextAPI.get_current_context()
        return str(context.Host) if context and context.Host else _DEFAULT_SOCKET
    except (DockerException, OSError, ValueError):
        return _DEFAULT_SOCKET


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300]


@contextmanager
def _closing(client: docker.DockerClient) -> Iterator[docker.DockerClient]:
    try:
        yield client
    finally:
        client.close()
