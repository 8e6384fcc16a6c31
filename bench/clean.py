"""`bench clean`: what dead runs and builds left on this machine, and on request the images. A living one loses nothing.

Runs leave containers and compile caches only where harness and reaper were killed together, or the engine went away;
builds leave stages of gigabytes where they were killed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.errors import APIError

from bench import paths
from bench.container_engine import STAGE, engine, one_sentence
from bench.errors import EnvironmentUnavailable
from bench.launch import data_place, owner
from bench.launch.reaper import dead, sweep_dead

if TYPE_CHECKING:
    import docker

HALF_MADE_S = 86_400  # no download and no build of ours takes a day


@dataclass(frozen=True, kw_only=True)
class Left:
    """One thing that was found: what it is, why it may go, how much it holds where that is known, and why it stays."""

    kind: str
    name: str
    why: str
    size_bytes: int | None = None
    stays: str | None = None


def clean(*, images: bool = False, dry_run: bool = False) -> tuple[list[Left], str | None]:
    """Remove what nobody owns any more; all that was removed, and why the engine was not looked at, if so.

    images   those that bench built as well, and the bases that it made or tagged
    dry_run  only say what would be removed
    """
    found = list(_of_cache(dry_run=dry_run))
    try:
        with closing(engine()) as client, one_sentence("cleaning"):
            found += _of_engine(client, images=images, dry_run=dry_run)
    except EnvironmentUnavailable as reason:
        return found, str(reason)
    return found, None


def _of_engine(client: docker.DockerClient, *, images: bool, dry_run: bool) -> Iterator[Left]:
    for container in dead(client) if dry_run else sweep_dead(client):
        why = f"of run {container['Labels']['bench.run']}, whose harness has ended"
        yield Left(kind="container", name=container["Id"][:12], why=why)
    for kind, name in data_place.left_behind(client):
        if not dry_run:
            data_place.remove(client, kind, name)
        yield Left(kind=kind, name=name[:40], why="of a run whose harness has ended")
    stages = client.api.images(filters={"dangling": True, "label": [STAGE]})
    for stage in stages:
        if "bench.image" not in stage["Labels"] and owner.is_gone(stage["Labels"][STAGE].rpartition("/")[0]):
            yield _remove_image(client, stage, "stage", "of a build that was killed", dry_run=dry_run)
    for image in _ours(client) if images else ():
        yield _remove_image(client, image, "image", "asked for", dry_run=dry_run)


def _ours(client: docker.DockerClient) -> Iterator[dict[str, Any]]:
    """Frameworks' images first, then the bases that they stand on."""
    yield from client.api.images(filters={"label": ["bench.image"]})
    yield from client.api.images(name="bench-base")


def _remove_image(client: docker.DockerClient, image: dict[str, Any], kind: str, why: str, *, dry_run: bool) -> Left:
    names = [name for name in image.get("RepoTags") or [] if name != "<none>:<none>"]
    stays = None
    try:
        for name in () if dry_run else names or [image["Id"]]:
            client.api.remove_image(name)  # by name: another name of the same image keeps it
    except APIError as error:
        stays = " ".join(str(error.explanation or error).split())[:200]
    name = ", ".join(names) or image["Id"][:19]
    return Left(kind=kind, name=name, why=why, size_bytes=int(image["Size"]), stays=stays)


def _of_cache(*, dry_run: bool) -> Iterator[Left]:
    root = paths.cache_root()
    for folder in sorted(root.glob("compile/*")):
        with _nobody_holds(folder) as free:
            if free:
                yield _remove_folder(folder, "compile cache", "of a run that has ended", dry_run=dry_run)
    for folder in sorted(root.glob("*/.partial-*")):
        if time.time() - folder.stat().st_mtime > HALF_MADE_S:
            yield _remove_folder(folder, "folder", "half made, over a day ago", dry_run=dry_run)


@contextmanager
def _nobody_holds(folder: Path) -> Iterator[bool]:
    """Whether no living run holds the folder (`paths.held`); none can take it meanwhile."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # its run has just ended
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)


def _remove_folder(folder: Path, kind: str, why: str, *, dry_run: bool) -> Left:
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    if not dry_run:
        shutil.rmtree(folder, ignore_errors=True)
    stays = "files of a container's user are in it; sudo rm -r" if folder.exists() and not dry_run else None
    return Left(kind=kind, name=str(folder), why=why, size_bytes=size, stays=stays)
