"""The Docker engine: found, asked, made to pull, build and run; one sentence where it does not answer."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import docker
from docker.constants import DEFAULT_DOCKER_API_VERSION
from docker.context import ContextAPI
from docker.context.config import get_current_context_name
from docker.errors import APIError, ContainerError, ImageNotFound
from docker.types import LogConfig
from docker.utils import kwargs_from_env, parse_repository_tag

from bench.engine import owner
from bench.engine.words import LOST, explained, unreachable
from bench.errors import EnvironmentUnavailable, InputError

STAGE = "bench.stage"  # label of a stage that only a build needs; its value says whose it is
_PING_LIMIT_S = 5
_CALL_LIMIT_S = 600
_ONCE_PIDS = 4096
_COLOURS = r"\x1b\[[0-9;]*m"
_BUILDER_OWN_WORDS = r"\s*$|Step \d|\s*--->|Removing intermediate|(\[\d+/\d+\] )?STEP \d|--> |COMMIT "
_DEFAULT_SOCKET = "unix:///var/run/docker.sock"
_CONTEXTS = "docker context ls shows those that do, docker context use default takes the usual one"
_SAID = tuple(one for one in LOST if one is not OSError)  # a file that cannot be written is not the engine's


def engine(*, timeout_s: int = _CALL_LIMIT_S) -> docker.DockerClient:
    """A client of the engine that the docker command would use; the caller closes it.

    raises  EnvironmentUnavailable: no engine runs, or this user may not talk to it
    """
    where = address()
    try:
        tls = _tls()
        with _closing(_client(where, tls, timeout_s=_PING_LIMIT_S)) as probe:
            spoken = str(probe.api.version(api_version=False)["ApiVersion"])
        return _client(where, tls, timeout_s=timeout_s, version=spoken)
    except (*LOST, ValueError, KeyError, TypeError, AttributeError) as error:  # the last: docker-py, of npipe://
        raise EnvironmentUnavailable(unreachable(where, error)) from None


def _client(where: str, tls: Any, *, timeout_s: int, version: str = DEFAULT_DOCKER_API_VERSION) -> docker.DockerClient:
    """A client that asks nothing yet, and takes neither a proxy nor certificates that are meant for the world."""
    client = docker.DockerClient(base_url=where, version=version, timeout=timeout_s, tls=tls)
    client.api.trust_env = False
    return client


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
    return read_build(client.api.build(rm=True, forcerm=True, decode=True, **options), what=what, client=client)


def read_build(messages: Iterable[dict[str, Any]], *, what: str, client: docker.DockerClient | None = None) -> str:
    """The id of the image that a builder says it made.

    raises  EnvironmentUnavailable: the build's error, after the last thing that it printed
    """
    printed, failed, built = "", "", ""
    for message in messages:
        text = re.sub(_COLOURS, "", message.get("stream", ""))
        if not re.match(_BUILDER_OWN_WORDS, text):
            printed = (printed + text)[-300:]  # what a command prints comes in fragments
        failed = failed or message.get("error", "").strip()
        built = message.get("aux", {}).get("ID", built)
    if failed:
        failed = printed if "no space left" in printed.lower() else failed
        raise EnvironmentUnavailable(f"{what} cannot be built: {_line(printed)} ({explained(failed, client)})")
    return str(built)


def find_or_pull(
    client: docker.DockerClient, name: str, what: str, remedy: str, progress: Callable[[str], None]
) -> str:
    """The id of an image by name, name@digest or id; pulled where this engine does not have it.

    what, remedy  how a sentence calls it, and what else the user can do
    raises        EnvironmentUnavailable: it is neither here nor to be pulled
    """
    try:
        return str(client.images.get(name).id)
    except ImageNotFound:
        progress(f"pulling {name}")
    except APIError as error:
        raise InputError(f'{what} "{name}": {explained(error)}; {remedy}') from None
    try:
        return pull(client, name)
    except (*_SAID, EnvironmentUnavailable) as error:
        raise EnvironmentUnavailable(
            f"{what} {name} is neither on this engine nor to be pulled ({explained(error, client)}); {remedy}"
        ) from None


def pull(client: docker.DockerClient, reference: str) -> str:
    """The id of an image from its registry; what fails midway is in messages that docker-py's own pull ignores."""
    repository, tag = parse_repository_tag(reference)
    for message in list(client.api.pull(repository, tag=tag or "latest", stream=True, decode=True)):
        if "error" in message:
            raise EnvironmentUnavailable(str(message["error"]))
    return str(client.images.get(reference).id)


def run_once(client: docker.DockerClient, image: str, command: list[str], **options: Any) -> str:
    """What a command prints to stdout in a container of its own, without a network; nothing of it is left.

    raises  ContainerError: it ended with an error; APIError: it could not be started
    """
    labels = {"bench.run": "probe", owner.LABEL: owner.mine()}
    container = client.containers.create(
        image, command, network_mode="none", labels=labels, security_opt=["no-new-privileges"], pids_limit=_ONCE_PIDS,
        log_config=LogConfig(type=LogConfig.types.JSON), **options,
    )  # fmt: skip
    try:
        container.start()
        status = int(container.wait()["StatusCode"])
        said, errors = (container.logs(stdout=out, stderr=not out).decode(errors="replace") for out in (True, False))
    finally:
        container.remove(force=True, v=True)  # docker-py's own `remove` leaves one that never started
    if status:
        raise ContainerError(container, status, command, image, errors)
    return said


def buildkit(
    client: docker.DockerClient, *, context: IO[bytes], tag: str, buildargs: dict[str, str], labels: dict[str, str],
    mark: str,
) -> bool:  # fmt: skip
    """Build without network by BuildKit, in a third of the legacy builder's time; False where this engine does not.

    docker-py speaks to the legacy builder only, but the engine's own interface takes the same tar for both.
    BuildKit tells its log in a format of its own: after False, the legacy builder says in words what is wrong.

    context  a tar whose size, and that of whose files, is no other build's
    mark     in a command of every stage, and in no other build's: what the build leaves in the cache is known by it
    """
    api = client.api
    settings = {"buildargs": json.dumps(buildargs), "labels": json.dumps(labels)}
    sizes = _sizes(context)
    before = {entry["ID"] for entry in _build_cache(client)}
    with api.post(
        f"{api.base_url}/v{api.api_version}/build",
        params={"version": "2", "t": tag, "networkmode": "none", **settings},
        data=context, headers={"Content-Type": "application/x-tar"}, stream=True, timeout=_CALL_LIMIT_S,
    ) as answer:  # fmt: skip
        done = answer.ok and not any(b'"error' in line for line in answer.iter_lines())
    meanwhile = [entry for entry in _build_cache(client) if entry["ID"] not in before]
    for entry in of_build(meanwhile, mark=mark, sizes=sizes):
        # Gigabytes that no later build would use. The stubs know fewer filters than the engine.
        api.prune_builds(filters={"id": entry["ID"]}, all=True)  # type: ignore[arg-type]
    return done


def of_build(entries: Iterable[dict[str, Any]], *, mark: str, sizes: Collection[int]) -> list[dict[str, Any]]:
    """The records of BuildKit's cache that are provably one build's, the newest first, so that none has children.

    The engine may be somebody else's too, and says of no record whose build it was. A command's has its text, so that
    the mark is found; what it stands on and what stands on it is the same build's. A context's has its size alone.

    entries  those that appeared while it went on
    """
    known = {entry["ID"]: entry for entry in entries if not entry["InUse"]}
    above: dict[str, list[str]] = {}
    for entry in known.values():
        for parent in _parents(entry):
            above.setdefault(parent, []).append(entry["ID"])
    marked = {name for name, entry in known.items() if mark in str(entry.get("Description"))}
    ours = _reached(marked, lambda name: above.get(name, [])) | _reached(
        marked, lambda name: _parents(known.get(name, {}))
    )
    ours = {name for name in ours & known.keys() if not _is_ground(known[name])}
    ours |= {name for name, entry in known.items() if not _parents(entry) and entry.get("Size") in sizes}
    return sorted((known[name] for name in ours), key=lambda entry: str(entry["CreatedAt"]), reverse=True)


def _parents(entry: dict[str, Any]) -> list[str]:
    """As engines tell it, and as those before API 1.42 do."""
    return list(entry.get("Parents") or filter(None, [entry.get("Parent")]))


def _is_ground(entry: dict[str, Any]) -> bool:
    """Whether it is an image that a build stands on: other builds may too."""
    return str(entry.get("Description")).startswith(("from local", "pulled from"))


def _reached(names: Iterable[str], further: Callable[[str], Iterable[str]]) -> set[str]:
    """These, and all that is to be reached from them; what is not known leads nowhere."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += further(name)
    return found


def _sizes(context: IO[bytes]) -> set[int]:
    """Of a tar, and of its files: how the cache's records of a context are known."""
    with tarfile.open(fileobj=context) as tar:
        files = sum(member.size for member in tar)
    length = context.seek(0, os.SEEK_END)
    context.seek(0)
    return {length, files}


def give_name(client: docker.DockerClient, image: str, name: str) -> None:
    """Tag an image, by id or name, as `repository:tag`; Podman wants the two apart."""
    repository, _, tag = name.rpartition(":")
    client.api.tag(image, repository, tag=tag)


def _build_cache(client: docker.DockerClient) -> list[dict[str, Any]]:
    return list(client.df().get("BuildCache") or [])


def address() -> str:
    """DOCKER_HOST, or the docker command's context, or the usual socket.

    raises  EnvironmentUnavailable: the context that is chosen does not exist or cannot be read
    """
    if os.environ.get("DOCKER_HOST"):
        return os.environ["DOCKER_HOST"]
    context = _context()
    return str(context.Host) if context and context.Host else _DEFAULT_SOCKET


def _tls() -> Any:
    """How the engine proves itself: DOCKER_TLS_VERIFY with DOCKER_CERT_PATH beside DOCKER_HOST, else the context's."""
    if os.environ.get("DOCKER_HOST"):
        return kwargs_from_env().get("tls") or False
    context = _context()
    return (context.TLSConfig if context else None) or False


def _context() -> Any:
    name = os.environ.get("DOCKER_CONTEXT") or get_current_context_name()
    try:
        found = ContextAPI.get_context(name)
    except Exception as error:  # docker-py raises this very class
        raise EnvironmentUnavailable(
            f"the docker context {name} cannot be read ({_line(error)}); {_CONTEXTS}"
        ) from None
    if found is None:
        raise EnvironmentUnavailable(f"the docker context {name} does not exist; {_CONTEXTS}")
    return found


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300]


@contextmanager
def _closing(client: docker.DockerClient) -> Iterator[docker.DockerClient]:
    try:
        yield client
    finally:
        client.close()
