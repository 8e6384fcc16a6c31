"""Bases that are odd, tampered with or out of reach."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.engine.client import run_build
from bench.errors import EnvironmentUnavailable
from bench.provision import base
from bench.provision.base import choose

if TYPE_CHECKING:
    import docker
    from stand_in_registry import Registry

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = {"tensorflow": "tensorflow", "pytorch": "torch"}
# docker-py leaves the socket of a streamed answer to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
NOWHERE = "127.0.0.1:9/python:3.11-slim-bookworm"  # a registry that refuses at once


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered of earlier choices, and nothing of this test's."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))


@pytest.fixture
def derive(client: docker.DockerClient, default_base: base.Base) -> Iterator[Callable[[str], str]]:
    """Make an odd image by one command on the default base; all its names are removed afterwards."""
    made: list[str] = []

    def on_default_base(run: str) -> str:
        dockerfile = io.BytesIO(f"FROM {default_base.tag}\nRUN {run}\n".encode())
        made.append(run_build(client, what="an odd base", fileobj=dockerfile, network_mode="none"))
        return made[-1]

    yield on_default_base
    for image in made:
        client.images.remove(image, force=True)


@pytest.mark.docker
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(
    "case",
    [
        ("rm -f /usr/bin/python3* /usr/local/bin/python3*", "has no python3; give --base one with Python 3.11 to 3.13"),
        (
            "printf '#!/bin/sh\\necho 3.9\\n' > /usr/local/bin/python3 && chmod +x /usr/local/bin/python3",
            "has Python 3.9;",
        ),
        (
            "rm -rf /usr/bin/c++ /usr/bin/apt-get /usr/include/python3*",
            "a base with g.. libpython3-dev on sha256.* cannot be built: .*apt-get: not found.* give --base an image",
        ),
    ],
)
def test_a_base_that_cannot_serve_is_refused_in_one_sentence(
    client: docker.DockerClient, derive: Callable[[str], str], case: tuple[str, str]
) -> None:
    run, sentence = case
    with pytest.raises(EnvironmentUnavailable, match=sentence) as refused:
        choose(client, base=derive(run), progress=print)
    assert "\n" not in str(refused.value)


@pytest.mark.docker
def test_a_base_may_be_given_by_name_or_id(
    client: docker.DockerClient, default_base: base.Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    for given in (default_base.tag, default_base.id):
        assert choose(client, base=given, progress=print) == default_base
    assert not base.is_settled()  # a base given once is no default


@pytest.mark.docker
def test_a_base_that_is_nowhere_is_one_sentence(
    client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    with pytest.raises(
        EnvironmentUnavailable, match=r"the base image 127\.0\.0\.1:9/nothing:1 is neither on this engine"
    ):
        choose(client, base="127.0.0.1:9/nothing:1", progress=print)


@pytest.mark.docker
def test_where_no_registry_answers_the_base_is_made_here_and_says_so(
    client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(base, "OFFICIAL", NOWHERE)
    said: list[str] = []
    first = choose(client, base=None, progress=said.append)
    assert "the base is made here from Debian packages" in said[0]
    said.clear()
    assert choose(client, base=None, progress=said.append) == first
    assert said == []


@pytest.mark.docker
def test_a_missing_mmdebstrap_is_one_sentence_with_the_command(
    client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(base, "OFFICIAL", NOWHERE)
    monkeypatch.setattr(base, "_made_name", lambda: "bench-base:absent")
    with pytest.raises(EnvironmentUnavailable, match="sudo apt-get install mmdebstrap"):
        choose(client, base=None, progress=print)


@pytest.mark.docker
def test_the_digest_of_the_official_base_is_recorded_at_the_first_pull_and_held(
    registry: Registry, client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    digest = registry.release("first")
    first = base._default(client, base._load(), print)
    held = base._load()["default"]
    assert held == {"reference": f"{registry.official.rpartition(':')[0]}@{digest}", "source": first}
    assert registry.release("second") != digest  # the tag moves on
    client.images.remove(held["reference"], force=True)
    assert base._default(client, base._load(), print) == first
    assert base._load()["default"] == held


@pytest.mark.docker
def test_a_held_digest_outlives_a_registry_that_is_down_for_a_day(
    registry: Registry, client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(base, "_made", lambda *_: "sha256:made-here")
    registry.release("first")
    first = base._default(client, base._load(), print)
    held = base._load()["default"]
    client.images.remove(held["reference"], force=True)
    blobs, registry.blobs = registry.blobs, {}
    said: list[str] = []
    assert base._default(client, base._load(), said.append) == "sha256:made-here"
    assert "no image registry gives" in said[-1]
    assert base._load()["default"] == held
    registry.blobs = blobs
    assert base._default(client, base._load(), print) == first
