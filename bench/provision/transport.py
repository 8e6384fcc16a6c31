"""`bench images save|load`: images with their base in one file, for a machine that no network reaches.

The file is what `docker save` writes, with one member more: `bench.json`, which says what is inside, which base bench
held, and the locks of versions that were resolved where the file was written. `docker load` reads it as well.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.engine.client import engine, give_name, one_sentence
from bench.errors import EnvironmentUnavailable, InputError
from bench.provision import base as base_image
from bench.provision import image, locks
from bench.provision.image import Image

if TYPE_CHECKING:
    import docker

SCHEMA = "bench.images/1"
_MEMBER = "bench.json"

Progress = Callable[[str], None]


def save(
    file: Path, *, frameworks: Sequence[str], flavour: str, version: str | None = None, progress: Progress
) -> list[Image]:
    """Write the newest image of each framework, and the base they stand on. Raises InputError: one was never built.

    version  of the one framework; None for the locked one
    """
    chosen = []
    for framework in dict.fromkeys(frameworks):
        found = image.find(framework, version, flavour)
        if found is None:
            which = f"{framework} {version or 'as locked'} ({flavour})"
            raise InputError(f"there is no image of {which} to save; bench images build makes it")
        chosen.append(found)
    contents = {
        "schema": SCHEMA,
        "images": [asdict(one) for one in chosen],
        "base": base_image.held_for({one.base for one in chosen}),
        "locks": {path.name: path.read_text() for path in sorted(locks.resolved_folder().glob("*.lock"))},
    }
    partial = file.with_name(f".{file.name}.part")
    try:
        with closing(engine()) as client, one_sentence(f"saving images to {file}"):
            names = [image.tag_of(one) for one in chosen] + sorted({_base_tag(client, one.base) for one in chosen})
            progress(f"writing {', '.join(names)} to {file}")
            with partial.open("wb") as out:
                _stream(client, names, out)
        with tarfile.open(partial, "a") as tar:
            _add(tar, json.dumps(contents, indent=1).encode())
        partial.replace(file)
    except OSError as error:
        raise EnvironmentUnavailable(f"{file} cannot be written: {error.strerror}; choose another place") from None
    finally:
        partial.unlink(missing_ok=True)
    return chosen


def load(file: Path, *, progress: Progress) -> list[Image]:
    """Take the images of a file into the engine, and hold to the base that they stand on.

    raises  InputError: the file was not written by `save`
            EnvironmentUnavailable: the engine took something else than the file promised
    """
    contents, promised = _contents(file)
    with closing(engine()) as client, one_sentence(f"loading images from {file}"):
        progress(f"loading {', '.join(map(image.tag_of, promised))} from {file}")
        with file.open("rb") as stored:
            client.images.load(stored)  # requests sends a file piece by piece
        there = {name: entry["Id"] for entry in client.api.images() for name in entry["RepoTags"] or []}
    for one in promised:
        found = there.get(image.tag_of(one))
        if found != one.id:
            why = (
                "this engine's image store gives other ids than the one that it was saved from (the containerd store "
                "and Docker's own do): save it from an engine with the same store"
                if found
                else "the file may be cut short: copy it again"
            )
            raise EnvironmentUnavailable(f"{file} promised {image.tag_of(one)} as {one.id[:19]}: {why}")
    base_image.hold(contents["base"])
    for name, text in contents["locks"].items():
        locks.take_resolved(name, text)
    return promised


def _contents(file: Path) -> tuple[dict[str, Any], list[Image]]:
    """What `save` wrote beside the images, and the images that it names."""
    try:
        with tarfile.open(file, "r:") as tar:
            member = tar.extractfile(_MEMBER)
            contents = dict(json.loads(member.read())) if member else {}
        if contents.get("schema") != SCHEMA:
            said = f"{file} has schema {contents.get('schema')}, this bench reads {SCHEMA}; use the same release"
            raise InputError(said)
        _ = contents["base"], dict(contents["locks"])
        return contents, [Image(**one) for one in contents["images"]]
    except FileNotFoundError:
        raise InputError(f"{file}: there is no such file") from None
    except (KeyError, TypeError, ValueError, tarfile.TarError, OSError) as error:
        raise InputError(
            f"{file} holds no images that bench images save wrote ({type(error).__name__}: {error})"
        ) from None


def _base_tag(client: docker.DockerClient, base: str) -> str:
    """A name for the base: without one the file would hold its layers and not the image."""
    tag = base_image.tag(base)
    give_name(client, base, tag)
    return tag


def _stream(client: docker.DockerClient, names: Sequence[str], out: io.BufferedWriter) -> None:
    """As `docker save` of several images, which docker-py's own method cannot: they share their base's layers."""
    api = client.api
    url = f"{api.base_url}/v{api.api_version}/images/get"
    with api.get(url, params={"names": list(names)}, stream=True) as answer:
        if not answer.ok:
            raise EnvironmentUnavailable(f"the engine does not give {', '.join(names)}: {answer.text[:200]}")
        for chunk in answer.iter_content(2**20):
            out.write(chunk)


def _add(tar: tarfile.TarFile, content: bytes) -> None:
    entry = tarfile.TarInfo(_MEMBER)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))
