"""Containers whose data lies elsewhere than in a folder of the host: in a volume of the engine, or in the image.

For `compare: launcher`, to show what the place costs. Both are made for one run and go with it; what a harness left
that was killed with its reaper, `bench clean` removes.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench.engine import owner
from bench.engine.client import one_sentence, run_build
from bench.engine.sweep import force_away
from bench.launch.docker import DATA, DockerLauncher

if TYPE_CHECKING:
    from collections.abc import Sequence

    import docker

    from bench.launch import Progress, Provision
    from bench.matrix.need import Need

BAKED = {"bench.data": "baked", "bench.recipe": "with data"}  # it inherits all labels, and is not its base
# Labelled from its first step on: what a build that is killed leaves would else be taken for the framework's image.
_DOCKERFILE = "ARG BASE\nFROM ${{BASE}}\nLABEL {labels}\nUSER root\nCOPY data/ /bench/data/\nUSER 65534:65534\n"


class VolumeLauncher(DockerLauncher):
    """The data in a named volume, which the engine keeps where it keeps its images."""

    name = "docker-volume"

    def provide(self, needs: Sequence[Need], progress: Progress) -> dict[Need, Provision]:
        """Also fill the volume, through a container that never starts."""
        provisions = super().provide(needs, progress)
        if self.data and provisions:
            image = next(iter(self.images.values()))
            with one_sentence("filling a volume with the data", self.client):
                _fill(self.client, self._volume, image, self.data, self.labels)
        return provisions

    @property
    def _volume(self) -> str:
        return f"bench-{self.labels['bench.run']}-data"

    def data_mounts(self) -> list[str]:
        """The volume, read-only."""
        return [f"{self._volume}:{DATA}:ro"] if self.data else []


class BakedLauncher(DockerLauncher):
    """The data as one more layer of the image."""

    name = "docker-image"

    def provide(self, needs: Sequence[Need], progress: Progress) -> dict[Need, Provision]:
        """Also build the images with the data; what is recorded is the image below, which stays."""
        provisions = super().provide(needs, progress)
        labels = " ".join(f'"{name}"="{value}"' for name, value in (self.labels | BAKED).items())
        for need in provisions if self.data else ():
            context = io.BytesIO()
            with tarfile.open(fileobj=context, mode="w") as tar:
                _add(tar, "Dockerfile", _DOCKERFILE.format(labels=labels).encode())
                _add_folder(tar, Path(str(self.data)), "data")
            context.seek(0)
            with one_sentence("putting the data into an image", self.client):
                self.images[need] = run_build(
                    self.client, what=f"the image of {need} with its data", fileobj=context, custom_context=True,
                    buildargs={"BASE": self.images[need]}, network_mode="none",
                )  # fmt: skip
        return provisions

    def data_mounts(self) -> list[str]:
        """None: the image holds it."""
        return []


def left_behind(client: docker.DockerClient) -> list[tuple[str, str]]:
    """Volumes and images with data whose harness has surely ended, as (kind, name)."""
    volumes = client.api.volumes(filters={"label": owner.LABEL})["Volumes"] or []
    images = client.api.images(filters={"label": "bench.data"}, all=False)
    found = [("volume", one["Name"], one["Labels"]) for one in volumes]
    found += [("image with data", one["Id"], one["Labels"]) for one in images]
    return [(kind, name) for kind, name, labels in found if owner.is_gone((labels or {}).get(owner.LABEL, ""))]


def remove(client: docker.DockerClient, kind: str, name: str) -> None:
    """One of them."""
    if kind == "volume":
        client.api.remove_volume(name, force=True)
    else:
        client.api.remove_image(name, force=True)


def _fill(client: docker.DockerClient, volume: str, image: str, data: Path, labels: dict[str, str]) -> None:
    api = client.api
    api.create_volume(volume, labels=labels)
    config = api.create_host_config(binds=[f"{volume}:{DATA}:rw"], network_mode="none")
    container = api.create_container(image, ["true"], host_config=config, labels=labels)["Id"]
    try:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            _add_folder(tar, data, ".")
        api.put_archive(container, DATA, archive.getvalue())
    finally:
        force_away(api, container)


def _add_folder(tar: tarfile.TarFile, folder: Path, name: str) -> None:
    """The folder's files, readable by everybody: workers are nobody."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            _add(tar, f"{name}/{path.name}", path.read_bytes())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))
