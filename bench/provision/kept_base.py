"""Base images kept as files beside the wheels: with them an image is built again from nothing, with no network at all.

A file is what `docker save` writes, so that the image comes back with the same id, on this engine or on another.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from docker.errors import DockerException, ImageNotFound
from requests.exceptions import RequestException

from bench import paths

if TYPE_CHECKING:
    import docker


def keep(client: docker.DockerClient, image: str) -> None:
    """Write the image to the cache unless it is there; other bases that were kept before go."""
    kept = _file(image)
    if kept.exists():
        return
    kept.parent.mkdir(exist_ok=True)
    partial = kept.with_suffix(".part")
    try:
        with partial.open("wb") as file:
            for chunk in client.images.get(image).save():
                file.write(chunk)
        partial.replace(kept)
    finally:
        partial.unlink(missing_ok=True)
    for other in kept.parent.glob("*.tar"):
        if other != kept:
            other.unlink(missing_ok=True)


def restore(client: docker.DockerClient, image: str) -> bool:
    """Whether the engine has the image again, with the same id, from the cache."""
    kept = _file(image)
    with suppress(FileNotFoundError, DockerException, RequestException):
        with kept.open("rb") as file:
            client.images.load(file)  # requests sends a file piece by piece
        with suppress(ImageNotFound):
            return bool(client.images.get(image))
    return False


def _file(image: str) -> Path:
    return paths.cache_root() / "bases" / f"{image.partition(':')[2][:12]}.tar"
