"""One image a framework, built offline from its wheelhouse on a shared base; rebuilt only when its content changes."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bench import base_image, locks, paths, wheelhouse
from bench.container_engine import STAGE, buildkit, engine, one_sentence, run_build
from bench.errors import EnvironmentUnavailable
from bench.launch import owner
from bench.locks import Target, locked_version
from bench.pip_client import uv_binary

if TYPE_CHECKING:
    import docker

    from bench.base_image import Base
    from bench.wheelhouse import Wheelhouse

__all__ = ["Image", "build", "build_all", "engine", "find", "list_images"]

FLAVOUR = "cpu"

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


def build_all(
    *, wanted: Sequence[tuple[str, str | None]] = (("tensorflow", None), ("pytorch", None)), base: str | None = None,
    progress: Progress,
) -> list[Image]:  # fmt: skip
    """Build several (framework, version) at once, on one base; `progress` is called from several threads.

    Where the base has yet to be had, the wheels are downloaded meanwhile.
    """
    for framework, version in wanted:
        locks.check(framework=framework, version=version)
    with ThreadPoolExecutor() as pool:
        if base is None and not base_image.is_settled():
            with closing(engine()) as client:
                early = [
                    pool.submit(
                        wheelhouse.gather, framework=framework, version=version,
                        python=base_image.OFFICIAL_PYTHON, progress=progress,
                    )
                    for framework, version in wanted
                ]  # fmt: skip
                with one_sentence("having a base image", client):
                    base_image.choose(client, base=None, progress=progress)
                for download in early:
                    download.result()
        builds = [pool.submit(build, framework=f, version=v, base=base, progress=progress) for f, v in wanted]
        return [one.result() for one in builds]


def build(*, framework: str, version: str | None = None, base: str | None = None, progress: Progress) -> Image:
    """Have the image of a framework; one whose lock, base and recipe are unchanged is found at once.

    version  None for the locked one
    base     any image with Python 3.11 to 3.13, by name or id; None for the default base
    """
    locks.check(framework=framework, version=version)
    with closing(engine()) as client, one_sentence(f"building the image of {framework}", client):
        ground = base_image.choose(client, base=base, progress=progress)
        target = Target(ground.python)
        lock = locks.lock(framework=framework, version=version, target=target)
        with paths.exclusive(f"image-{framework}-{version or locked_version(framework)}"):
            found = lock and _current(client, framework, lock.version, lock.digest, ground)
            if found:
                return found
            wheels = wheelhouse.gather(framework=framework, version=version, python=target.python, progress=progress)
            progress(f"building the image of {framework} {wheels.version}")
            return _build(client, wheels, ground)


def list_images() -> list[Image]:
    """All images of bench on the engine, newest first."""
    with closing(engine()) as client, one_sentence("listing images"):
        return _labelled(client, {"bench.flavour": FLAVOUR})


def find(framework: str, version: str | None = None) -> Image | None:
    """The newest image of a framework at a version (None: the locked one), or None; nothing is built or checked."""
    wanted = {"bench.image": framework, "bench.version": version or locked_version(framework)}
    with closing(engine()) as client, one_sentence("listing images"):
        return next(iter(_labelled(client, wanted)), None)


def _current(client: docker.DockerClient, framework: str, version: str, lock_hash: str, base: Base) -> Image | None:
    """The image with exactly this content, if the engine has it."""
    labels = _labels(framework=framework, version=version, lock_hash=lock_hash, base=base)
    found = next(iter(_labelled(client, labels, superseded=True)), None)
    if found:  # another base or recipe may have taken the tag since
        client.images.get(found.id).tag(_tag(framework, version))
    return found


def _labelled(client: docker.DockerClient, labels: dict[str, str], *, superseded: bool = False) -> list[Image]:
    """Images with these labels, newest first; without those whose tag went to another, unless `superseded`."""
    filters: dict[str, Any] = {"label": [f"{key}={value}" for key, value in labels.items()]}
    if not superseded:
        filters["dangling"] = False
    found = [entry for entry in client.api.images(filters=filters) if "bench.image" in (entry["Labels"] or {})]
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


def _labels(*, framework: str, version: str, lock_hash: str, base: Base) -> dict[str, str]:
    """All that decides an image's content, as its labels."""
    return {
        "bench.image": framework,
        "bench.version": version,
        "bench.flavour": FLAVOUR,
        "bench.base": base.id,
        "bench.lock": lock_hash,
        "bench.recipe": hashlib.sha256(_dockerfile(framework).read_bytes()).hexdigest()[:16],
    }


def _build(client: docker.DockerClient, wheels: Wheelhouse, base: Base) -> Image:
    """Build, tag and label; the first stage, gigabytes with the legacy builder, is removed whatever happens."""
    stage = f"{owner.mine()}/{uuid.uuid4().hex}"
    labels = _labels(framework=wheels.framework, version=wheels.version, lock_hash=wheels.lock_hash, base=base)
    try:
        with tempfile.TemporaryFile(dir=paths.cache_root()) as context:
            _write_context(context, wheels)
            tag, buildargs = _tag(wheels.framework, wheels.version), {"BASE": base.tag, "STAGE": stage}
            if not buildkit(client, context=context, tag=tag, buildargs=buildargs, labels=labels):
                context.seek(0)
                run_build(
                    client, what=f"the image of {wheels.framework} {wheels.version}", fileobj=context,
                    custom_context=True, tag=tag, buildargs=buildargs, labels=labels, network_mode="none",
                )  # fmt: skip
    finally:
        client.images.prune(filters={"dangling": True, "label": f"{STAGE}={stage}"})
        client.images.prune(filters={"dangling": True, "label": STAGE, "until": "24h"})  # of builds that were killed
    found = _current(client, wheels.framework, wheels.version, wheels.lock_hash, base)
    if found is None:
        raise EnvironmentUnavailable(f"the image of {wheels.framework} was removed while it was built; build it again")
    return found


def _write_context(context: IO[bytes], wheels: Wheelhouse) -> None:
    """The Dockerfile, uv and the wheels as one tar, wheels read straight from the cache."""
    uv = uv_binary()
    if uv is None:
        raise EnvironmentUnavailable("uv, which installs the wheels inside an image, is missing; pip install uv")
    with tarfile.open(fileobj=context, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(_dockerfile(wheels.framework), "Dockerfile")
        tar.add(uv.resolve(), "uv")
        for path in [wheels.requirements, *sorted(wheels.path.glob("*.whl"))]:
            tar.add(path, f"wheelhouse/{path.name}")
    context.seek(0)


def _tag(framework: str, version: str) -> str:
    return f"bench-{framework}:{version}-{FLAVOUR}"


def _dockerfile(framework: str) -> Path:
    locked_version(framework)  # refuses a framework that does not exist
    return paths.images_root() / framework / "Dockerfile"
