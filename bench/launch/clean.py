"""`bench clean`: what dead runs and builds left on this machine, and on request the images. A living one loses nothing.

Runs leave containers and compile caches only where harness and reaper were killed together, or the engine went away;
builds leave stages of gigabytes where they were killed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.errors import APIError

from bench import paths
from bench.engine import owner
from bench.engine.client import STAGE, engine, one_sentence
from bench.engine.sweep import dead, sweep_dead
from bench.errors import EnvironmentUnavailable
from bench.launch import data_place
from bench.provision.base import STAGE_OF_BASE

if TYPE_CHECKING:
    import docker

HALF_MADE_S = 86_400  # no download and no build of ours takes a day
# What a kill leaves of `paths.building`, of temporary folders in the cache (`bench-…`), of bases and of certificates.
HALF_MADE = ("*/.partial-*", "bench-*", "bases/*.part", "certificates/*.part")


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
        stays = None if dry_run else _refused(partial(data_place.remove, client, kind, name))
        yield Left(kind=kind, name=name[:40], why="of a run whose harness has ended", stays=stays)
    for stage in _dead_stages(client):
        yield _remove_image(client, stage, "stage", "of a build that was killed", dry_run=dry_run)
    if images:
        used = _in_use(client)
        for image in _ours(client):
            yield _remove_image(client, image, "image", "asked for", dry_run=dry_run, stays=used)


def _dead_stages(client: docker.DockerClient) -> Iterator[dict[str, Any]]:
    """Of images, and of bases: a base that was finished has a source, and all that stands on it has that too."""
    kinds = ((STAGE, "bench.image"), (STAGE_OF_BASE, "bench.base.source"))
    for label, finished in kinds:
        for stage in client.api.images(filters={"dangling": True, "label": [label]}):
            if finished not in stage["Labels"] and owner.is_gone(stage["Labels"][label].rpartition("/")[0]):
                yield stage


def _in_use(client: docker.DockerClient) -> str | None:
    """Why images stay: a living run needs its own again for its next block. None where no run is known to live."""
    alive = [folder.name for folder in paths.cache_root().glob("compile/*") if not _is_free(folder)]
    labels = [one["Labels"] for one in client.api.containers(all=True, filters={"label": ["bench.run", owner.LABEL]})]
    runs = alive + [one["bench.run"] for one in labels if not owner.is_gone(one[owner.LABEL])]
    return f"run {runs[0]} may need it; wait for its end" if runs else None


def _ours(client: docker.DockerClient) -> Iterator[dict[str, Any]]:
    """Frameworks' images first, then the bases that they stand on; those with a run's data go with their run."""
    made = client.api.images(filters={"label": ["bench.image"]})
    yield from (image for image in made if "bench.data" not in image["Labels"])
    yield from client.api.images(name="bench-base")


def _remove_image(
    client: docker.DockerClient, image: dict[str, Any], kind: str, why: str, *, dry_run: bool, stays: str | None = None
) -> Left:
    names = [name for name in image.get("RepoTags") or [] if name != "<none>:<none>"]
    for name in () if dry_run or stays else names or [image["Id"]]:
        stays = stays or _refused(partial(client.api.remove_image, name))  # by name: another one of the same keeps it
    name = ", ".join(names) or image["Id"][:19]
    return Left(kind=kind, name=name, why=why, size_bytes=int(image["Size"]), stays=stays)


def _refused(remove: Callable[[], object]) -> str | None:
    """Why the engine does not remove it: one thing that stays must not keep the rest."""
    try:
        remove()
    except APIError as error:
        return " ".join(str(error.explanation or error).split())[:200]
    return None


def _of_cache(*, dry_run: bool) -> Iterator[Left]:
    root = paths.cache_root()
    for folder in sorted(root.glob("compile/*")):
        with _nobody_holds(folder) as free:
            if free:
                yield _remove_folder(folder, "compile cache", "of a run that has ended", dry_run=dry_run)
    for left in sorted(path for pattern in HALF_MADE for path in root.glob(pattern)):
        if time.time() - left.stat().st_mtime > HALF_MADE_S:
            kind = "folder" if left.is_dir() else "file"
            yield _remove_folder(left, kind, "half made, over a day ago", dry_run=dry_run)


def _is_free(folder: Path) -> bool:
    with _nobody_holds(folder) as free:
        return free


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
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else [folder]
    size = sum(path.lstat().st_size for path in files)
    if not dry_run:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.is_file():
            folder.unlink(missing_ok=True)
    stays = "files of a container's user are in it; sudo rm -r" if folder.exists() and not dry_run else None
    return Left(kind=kind, name=str(folder), why=why, size_bytes=size, stays=stays)
