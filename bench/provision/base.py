"""The base that all images share: official and held by its digest, given by the user, or made here."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.errors import APIError, ContainerError, DockerException, ImageNotFound
from requests.exceptions import RequestException

from bench import paths
from bench.engine import owner
from bench.engine.client import engine, find_or_pull, give_name, pull, run_build, run_once
from bench.engine.words import explained, is_final
from bench.errors import EnvironmentUnavailable
from bench.provision import kept_base, network
from bench.provision.locks import PYTHONS

if TYPE_CHECKING:
    import docker

OFFICIAL = "python:3.11-slim-bookworm"
OFFICIAL_PYTHON = "3.11"  # what OFFICIAL and a made base hold: their wheels can be fetched beforehand
REPOSITORY = "bench-base"
STAGE_OF_BASE = "bench.base.stage"  # never the label of a stage: all that stands on the base inherits it
_REGISTRY_LIMIT_S = 15
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# Prints the Python version, then the Debian packages that torch.compile would miss: a compiler, Python.h.
_PROBE = """
python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' || exit
command -v c++ > /dev/null || echo g++
python3 -c 'import os, sysconfig as s; os.path.exists(s.get_path("include") + "/Python.h") or print("libpython3-dev")'
"""

_NO_PROGRAM = re.compile("executable file not found|no such file or directory|exec format error")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Base:
    """An image with Python and a C++ compiler; `tag` is a name that both builders can build from."""

    id: str
    tag: str
    python: str


def choose(client: docker.DockerClient, *, base: str | None, progress: Progress) -> Base:
    """The base to build on: `base` if given, else the one held in base.json, else official, else made here."""
    with paths.exclusive("base"):
        record = _load()
        source = _given(client, base, progress) if base else _default(client, record, progress)
        ground = _prepared(client, source, record, progress)
        if base is None:
            _keep(client, ground, progress)
        return ground


def is_settled() -> bool:
    """Whether the default base was chosen before, so that no time will go into having one."""
    return "default" in _load()


def held_for(images: set[str]) -> dict[str, Any]:
    """The part of it that concerns these bases: the default only where it is one of them."""
    record = _load()
    ready = {source: one for source, one in record.get("ready", {}).items() if one["id"] in images}
    default = record.get("default", {})
    return {"ready": ready, **({"default": default} if default.get("source") in ready else {})}


def hold(record: dict[str, Any]) -> None:
    """Hold to another machine's default base from now on."""
    with paths.exclusive("base"):
        own = _load()
        ready = {**own.get("ready", {}), **record.get("ready", {})}
        _save({**own, **{key: value for key, value in record.items() if key == "default"}, "ready": ready})


def renew(client: docker.DockerClient, *, progress: Progress) -> list[str]:
    """Hold the official base's tag to its digest of today; one line where that changed.

    Where no registry answers, what is held stays held.
    """
    with paths.exclusive("base"):
        record = _load()
        before = record.get("default", {}).get("reference", "")
        try:
            reference, source = _official(client, None, progress)
        except (DockerException, RequestException, EnvironmentUnavailable) as error:
            reason = " ".join(str(getattr(error, "explanation", None) or error).split())[:160]
            progress(f"no image registry gives {OFFICIAL} ({reason}): the base stays as it is held")
            return []
        record["default"] = {"reference": reference, "source": source}
        _save(record)
    return [] if reference == before else [f"base: {OFFICIAL} is held to {reference.rpartition('@')[2]}"]


def tag(image: str) -> str:
    """The name that bench gives a base, which both builders can build from."""
    return f"{REPOSITORY}:{image.partition(':')[2][:12]}"


def _keep(client: docker.DockerClient, ground: Base, progress: Progress) -> None:
    try:
        kept_base.keep(client, ground.id)
    except OSError as error:
        progress(f"the base is not kept beside the wheels, for building without a network: {error.strerror}")


def _default(client: docker.DockerClient, record: dict[str, Any], progress: Progress) -> str:
    """The id of the default base; whichever it is at first is held from then on."""
    held = record.get("default", {"reference": "", "source": ""})
    is_official = "@" in held["reference"]
    ready = record.get("ready", {}).get(held["source"], {}).get("id")
    if (is_official or held["reference"] == _made_name()) and _has(client, ready or held["source"]):
        return str(held["source"])
    try:
        reference, source = _official(client, held["reference"] if is_official else None, progress)
    except (DockerException, RequestException, EnvironmentUnavailable) as error:
        if is_final(error):
            raise EnvironmentUnavailable(f"{OFFICIAL}: {explained(error, client)}") from None
        reason = explained(error, client)
        progress(f"no image registry gives {OFFICIAL} ({reason}): the base is made here from Debian packages")
        reference, source = _made_name(), _made(client, progress)
        if is_official:
            return source  # the official digest stays held for the day when the registry answers again
    record["default"] = {"reference": reference, "source": source}
    _save(record)
    return source


def _official(client: docker.DockerClient, held: str | None, progress: Progress) -> tuple[str, str]:
    """Pull the official base by digest: the held one, else the tag's of today. Gives (name@digest, image id)."""
    name = OFFICIAL.rpartition(":")[0]
    if held is None:
        with closing(engine(timeout_s=_REGISTRY_LIMIT_S)) as hurried:
            answer = hurried.api.inspect_distribution(OFFICIAL)  # type: ignore[no-untyped-call]
            held = f"{name}@{answer['Descriptor']['digest']}"
    progress(f"pulling {held} (the digest of {OFFICIAL})")
    return held, pull(client, held)


def _given(client: docker.DockerClient, base: str, progress: Progress) -> str:
    remedy = "give --base an image that docker images lists"
    return find_or_pull(client, base, "the base image", remedy, progress)


def _prepared(client: docker.DockerClient, source: str, record: dict[str, Any], progress: Progress) -> Base:
    """The base with its Python known and all inside that compiling needs; asked once for each image."""
    images = record.setdefault("ready", {})
    known = images.get(source)
    if known is None or not _exists(client, known["id"]):
        python, missing = _probe(client, source)
        ready = _with_packages(client, source, missing, progress) if missing else source
        images[source] = known = {"id": ready, "python": python}
        _save(record)
    base = Base(id=known["id"], tag=tag(known["id"]), python=known["python"])
    give_name(client, base.id, base.tag)
    return base


def _probe(client: docker.DockerClient, source: str) -> tuple[str, list[str]]:
    """Ask an image for its Python, and for the packages that it lacks, by running it without a network."""
    machine = _MACHINES.get(client.images.get(source).attrs["Architecture"], "unknown")
    if machine != platform.machine():
        raise EnvironmentUnavailable(
            f"the base image {source[:19]} is for {machine}, this machine is {platform.machine()}; give --base another"
        )
    try:
        python, *missing = run_once(client, source, ["-c", _PROBE], entrypoint=["/bin/sh"], user="0").split()
    except (ContainerError, APIError, ValueError) as error:
        if isinstance(error, APIError) and not _NO_PROGRAM.search(str(error)):
            raise EnvironmentUnavailable(f"the base image {source[:19]}: {explained(error, client)}") from None
        raise EnvironmentUnavailable(
            f"the base image {source[:19]} has no python3; give --base one with Python {PYTHONS[0]} to {PYTHONS[-1]}"
        ) from None
    if python not in PYTHONS:
        raise EnvironmentUnavailable(
            f"the base image {source[:19]} has Python {python}; "
            f"give --base one with Python {PYTHONS[0]} to {PYTHONS[-1]}, which the locks cover"
        )
    return python, missing


def _with_packages(client: docker.DockerClient, source: str, missing: list[str], progress: Progress) -> str:
    """Add Debian packages to an image, from inside its own build: this step alone needs a network."""
    packages = " ".join(missing)
    progress(f"adding {packages} to the base image: torch.compile needs a C++ compiler and Python's headers")
    stage = f"{owner.mine()}/base"
    parent = f"{REPOSITORY}:source-{source.partition(':')[2][:12]}"
    give_name(client, source, parent)
    try:
        return run_build(
            client, what=f"a base with {packages} on {source[:19]}", fileobj=_context(), custom_context=True,
            buildargs={"BASE": parent, "PACKAGES": packages, "STAGE": stage, **network.proxies()},
            use_config_proxy=True, labels={"bench.base.source": source},
        )  # fmt: skip
    except EnvironmentUnavailable as failure:
        client.images.prune(filters={"dangling": True, "label": f"{STAGE_OF_BASE}={stage}"})
        raise EnvironmentUnavailable(
            f"{failure}; where containers reach no Debian mirror, give --base an image that has {packages} already"
        ) from None


def _context() -> io.BytesIO:
    """The base's Dockerfile, with the certificates to trust beside it."""
    context = io.BytesIO()
    files = {
        "Dockerfile": (paths.images_root() / "base" / "Dockerfile").read_bytes(),
        "ca-bundle.crt": network.ca_bundle(),
    }
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    context.seek(0)
    return context


def _made(client: docker.DockerClient, progress: Progress) -> str:
    """The base made on this machine before, or made now by images/base/make-base.sh (about a minute)."""
    if _exists(client, _made_name()):
        return str(client.images.get(_made_name()).id)
    if not shutil.which("mmdebstrap"):
        raise EnvironmentUnavailable(
            f"no image registry gives {OFFICIAL}, and mmdebstrap, which makes a base from Debian packages, is missing; "
            f"sudo apt-get install mmdebstrap, or give --base an image that docker images lists"
        )
    progress("making the base image from Debian packages (about a minute)")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=paths.cache_root()) as scratch:
        rootfs = Path(scratch) / "rootfs.tar"
        _run_make_base(rootfs)
        repository, _, tag = _made_name().partition(":")
        answer = client.api.import_image_from_file(
            str(rootfs), repository=repository, tag=tag, changes=["LABEL bench.base.made=bookworm"]
        )
    made = str(json.loads(answer.splitlines()[-1])["status"])
    give_name(client, made, _made_name())  # Podman imports it as bench-base:latest
    return made


def _made_name() -> str:
    """The name of the base that today's script makes."""
    return f"{REPOSITORY}:made-{hashlib.sha256(_make_base().read_bytes()).hexdigest()[:12]}"


def _make_base() -> Path:
    return paths.images_root() / "base" / "make-base.sh"


def _run_make_base(rootfs: Path) -> None:
    script = _make_base()
    done = subprocess.run(["/bin/sh", str(script), str(rootfs)], capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()[-1:]
        raise EnvironmentUnavailable(
            f"{script} could not make a base image ({' '.join(errors)[:300]}); "
            f"check that sudo apt-get update works here, or give --base an image that docker images lists"
        )


def _has(client: docker.DockerClient, image: str) -> bool:
    """Whether the engine has the image, or has it again from the cache."""
    return _exists(client, image) or kept_base.restore(client, image)


def _exists(client: docker.DockerClient, image: str) -> bool:
    try:
        client.images.get(image)
    except ImageNotFound:
        return False
    return True


def _load() -> dict[str, Any]:
    path = paths.cache_root() / "base.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _save(record: dict[str, Any]) -> None:
    path = paths.cache_root() / "base.json"
    partial = path.with_name(".base.json")
    partial.write_text(json.dumps(record, indent=1))
    partial.replace(path)
