"""One image a framework, built offline from its wheelhouse on a shared base; rebuilt only when its content changes."""

from __future__ import annotations

import hashlib
import io
import json
import re
import secrets
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from docker.errors import APIError

from bench import paths
from bench.engine import owner, podman
from bench.engine.client import STAGE, buildkit, engine, give_name, one_sentence, run_build
from bench.errors import EnvironmentUnavailable
from bench.provision import base as base_image
from bench.provision import locks
from bench.provision import wheels as wheelhouse
from bench.provision.labels import oci_labels
from bench.provision.locks import Target, locked_version
from bench.provision.pip import uv_binary

if TYPE_CHECKING:
    import docker

    from bench.provision.base import Base
    from bench.provision.locks import Lock
    from bench.provision.wheels import Wheelhouse

__all__ = ["Image", "Wanted", "build", "build_all", "engine", "find", "list_images"]

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Image:
    """A built image: `id` is the engine's own (sha256:…), `base` the id of the image that it was built on."""

    framework: str
    version: str
    flavour: str
    id: str
    base: str
    size_bytes: int


class Wanted(NamedTuple):
    """An image to have; the version None is the locked one."""

    framework: str
    version: str | None = None
    flavour: str = "cpu"


def build_all(*, wanted: Sequence[Wanted], base: str | None = None, progress: Progress) -> list[Image]:
    """Build several at once, on one base; `progress` is called from several threads.

    Where the base has yet to be had, the wheels are downloaded meanwhile.
    """
    for one in wanted:
        locks.check(**one._asdict())
    with ThreadPoolExecutor() as pool:
        if base is None and not base_image.is_settled():
            with closing(engine()) as client:
                early = [
                    pool.submit(
                        wheelhouse.gather, python=base_image.OFFICIAL_PYTHON, progress=progress, **one._asdict()
                    )
                    for one in wanted
                ]
                with one_sentence("having a base image", client):
                    base_image.choose(client, base=None, progress=progress)
                for download in early:
                    download.result()
        builds = [pool.submit(build, base=base, progress=progress, **one._asdict()) for one in wanted]
        return [one.result() for one in builds]


def build(
    *, framework: str, version: str | None = None, flavour: str = "cpu", base: str | None = None, progress: Progress
) -> Image:
    """Have the image of a framework; one whose lock, base and recipe are unchanged is found at once.

    version  None for the locked one
    base     any image with Python 3.11 to 3.13, by name or id; None for the default base
    """
    locks.check(framework=framework, version=version, flavour=flavour)
    with closing(engine()) as client, one_sentence(f"building the image of {framework}", client):
        ground = base_image.choose(client, base=base, progress=progress)
        target = Target(ground.python, flavour=flavour)
        lock = locks.lock(framework=framework, version=version, target=target)
        with paths.exclusive(f"image-{framework}-{version or locked_version(framework, flavour)}-{flavour}"):
            found = lock and _current(client, lock, ground)
            if found:
                return found
            wheels = wheelhouse.gather(
                framework=framework, version=version, flavour=flavour, python=target.python, progress=progress
            )
            lock = locks.lock(framework=framework, version=version, target=target)
            assert lock  # resolved by now
            progress(f"building the image of {framework} {lock.version}" + (" (cuda)" if flavour == "cuda" else ""))
            return _build(client, wheels, lock, ground)


def origin(client: docker.DockerClient, image: Image) -> tuple[str | None, tuple[str, ...]]:
    """The hash of an image's lock, and what a report should say of where its wheels came from."""
    labels = client.images.get(image.id).labels
    return labels.get("bench.lock"), tuple(json.loads(labels.get("bench.notes", "[]")))


def list_images() -> list[Image]:
    """All images of bench on the engine, newest first."""
    with closing(engine()) as client, one_sentence("listing images"):
        return _labelled(client, {})


def find(framework: str, version: str | None = None, flavour: str = "cpu") -> Image | None:
    """The newest image of a framework at a version (None: the locked one), or None; nothing is built or checked."""
    locked = version or locked_version(framework, flavour)
    wanted = {"bench.image": framework, "bench.version": locked, "bench.flavour": flavour}
    with closing(engine()) as client, one_sentence("listing images"):
        return next(iter(_labelled(client, wanted)), None)


def _current(client: docker.DockerClient, lock: Lock, base: Base) -> Image | None:
    """The image with exactly this content, if the engine has it."""
    found = next(iter(_labelled(client, _content(lock, base), superseded=True)), None)
    if found:  # another base or recipe may have taken the tag since
        give_name(client, found.id, tag_of(lock))
    return found


def _labelled(client: docker.DockerClient, labels: dict[str, str], *, superseded: bool = False) -> list[Image]:
    """Images with these labels, newest first; without those whose tag went to another, unless `superseded`.

    One with a run's data in it inherits all labels, and is not the framework's.
    """
    filters: dict[str, Any] = {"label": ["bench.image"]}  # Podman finds nothing by several
    if not superseded:
        filters["dangling"] = False
    entries = [entry for entry in client.api.images(filters=filters) if "bench.data" not in (entry["Labels"] or {})]
    found = [entry for entry in entries if labels.items() <= (entry["Labels"] or {}).items()]
    return [_image(entry) for entry in sorted(found, key=lambda entry: -int(entry["Created"]))]


def _image(entry: dict[str, Any]) -> Image:
    labels = entry["Labels"]
    return Image(
        framework=labels["bench.image"],
        version=labels["bench.version"],
        flavour=labels["bench.flavour"],
        id=entry["Id"],
        base=labels["bench.base"],
        size_bytes=int(entry["Size"]),
    )


def _content(lock: Lock, base: Base) -> dict[str, str]:
    """All that decides an image's content, as its labels."""
    return {
        "bench.image": lock.framework,
        "bench.version": lock.version,
        "bench.flavour": lock.flavour,
        "bench.base": base.id,
        "bench.lock": lock.digest,
        "bench.recipe": hashlib.sha256(_dockerfile(lock.framework).read_bytes()).hexdigest()[:16],
    }


def _build(client: docker.DockerClient, wheels: Wheelhouse, lock: Lock, base: Base) -> Image:
    """Build, tag and label; the first stage, gigabytes with the legacy builder, is removed whatever happens."""
    mark = uuid.uuid4().hex
    stage = f"{owner.mine()}/{mark}"
    arguments = {"BASE": base.tag, "STAGE": stage, "FLAVOUR": lock.flavour}
    labels = _content(lock, base) | oci_labels(lock, base) | {"bench.notes": json.dumps(wheels.notes)}
    try:
        with tempfile.TemporaryFile(dir=paths.cache_root()) as context:
            _write_context(context, wheels, mark)
            what = f"the image of {lock.framework} {lock.version}"
            recipe: Any = {"tag": tag_of(lock), "buildargs": arguments, "labels": labels}
            if podman.is_podman(client):
                podman.build(client, what=what, context=context, **recipe)
            elif not buildkit(client, context=context, mark=mark, **recipe):
                context.seek(0)
                run_build(
                    client, what=what, fileobj=context, custom_context=True, network_mode="none", **recipe
                )  # fmt: skip
    finally:
        _prune(client, {"label": f"{STAGE}={stage}"})
        _prune(client, {"label": STAGE, "until": "24h"})  # of builds that were killed
    found = _current(client, lock, base)
    if found is None:
        raise EnvironmentUnavailable(f"the image of {lock.framework} was removed while it was built; build it again")
    return found


def _prune(client: docker.DockerClient, which: dict[str, str]) -> None:
    """Stages without a name; the engine does one at a time, and a build is none the worse for one that stays."""
    with paths.exclusive("prune"), suppress(APIError):
        client.images.prune(filters={"dangling": True, **which})


def _write_context(context: IO[bytes], wheels: Wheelhouse, mark: str) -> None:
    """The Dockerfile, uv and the wheels as one tar, wheels read straight from the cache.

    So that BuildKit's records of it can be told from others', a command in every stage has the mark in its text (an
    argument's value is not told), and a file that no stage takes makes the sizes this build's own.
    """
    uv = uv_binary()
    if uv is None:
        raise EnvironmentUnavailable("uv, which installs the wheels inside an image, is missing; pip install uv")
    with tarfile.open(fileobj=context, mode="w", format=tarfile.GNU_FORMAT) as tar:
        recipe = _dockerfile(wheels.framework).read_text(encoding="utf-8")
        _add(tar, "Dockerfile", re.sub(r"^COPY (wheelhouse/|--from=).*$", rf"\g<0>\nRUN : {mark}", recipe, flags=re.M))
        _add(tar, "padding", "x" * secrets.randbelow(2**20))
        tar.add(uv.resolve(), "uv")
        for path in [wheels.requirements, *sorted(wheels.path.glob("*.whl"))]:
            tar.add(path, f"wheelhouse/{path.name}")
    context.seek(0)


def _add(tar: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def tag_of(image: Image | Lock) -> str:
    """The name of an image of bench, such as bench-pytorch:2.13.0-cpu."""
    return f"bench-{image.framework}:{image.version}-{image.flavour}"


def _dockerfile(framework: str) -> Path:
    locked_version(framework)  # refuses a framework that does not exist
    return paths.images_root() / framework / "Dockerfile"
