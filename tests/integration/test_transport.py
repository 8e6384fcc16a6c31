"""Images for a machine that no network reaches: carried there in one file, or built there from a kept wheelhouse."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from second_engine import SecondEngine

from bench.errors import InputError
from bench.paths import cache_root
from bench.provision import image, transport

if TYPE_CHECKING:
    from bench.provision.image import Image

# docker-py leaves the socket of a streamed answer to the garbage collector.
pytestmark = [pytest.mark.docker, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]


@pytest.fixture(scope="module")
def built() -> Image:
    return image.build(framework="pytorch", progress=print)


@pytest.fixture
def empty_engine() -> Iterator[SecondEngine]:
    with SecondEngine() as engine:
        yield engine


def bench(engine: SecondEngine, cache: Path, *arguments: str, offline: bool = True) -> subprocess.CompletedProcess[str]:
    """As a user of that engine, in a network namespace without any interface."""
    cut = ["unshare", "--net"] if offline else []
    environment = {**os.environ, "DOCKER_HOST": engine.address, "BENCH_CACHE": str(cache)}
    command = [*cut, sys.executable, "-m", "bench", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done


def listed(engine: SecondEngine, cache: Path) -> list[dict[str, Any]]:
    return list(json.loads(bench(engine, cache, "images", "list", "--format", "json").stdout))


@pytest.mark.framework
def test_with_the_network_cut_and_the_wheelhouse_kept_an_image_is_built_from_nothing(
    built: Image, empty_engine: SecondEngine
) -> None:
    assert listed(empty_engine, cache_root()) == []
    done = bench(empty_engine, cache_root(), "images", "build", "pytorch", "--format", "json")
    assert done.returncode == 0, done.stderr
    (made,) = json.loads(done.stdout)
    assert made["base"] == built.base, "the base is the very same one"
    assert made["version"] == built.version
    assert abs(made["size_bytes"] - built.size_bytes) < 0.01 * built.size_bytes


@pytest.mark.framework
def test_images_are_carried_to_a_machine_without_a_network_and_found_current_there(
    built: Image, empty_engine: SecondEngine, tmp_path: Path
) -> None:
    file = tmp_path / "images.tar"
    assert transport.save(file, frameworks=["pytorch"], flavour="cpu", progress=print) == [built]
    there = tmp_path / "cache-of-the-other-machine"
    loaded = bench(empty_engine, there, "images", "load", str(file), "--format", "json")
    assert loaded.returncode == 0, loaded.stderr
    assert [one["id"] for one in json.loads(loaded.stdout)] == [built.id]
    assert [one["id"] for one in listed(empty_engine, there)] == [built.id]
    again = bench(empty_engine, there, "images", "build", "pytorch", "--format", "json")
    assert again.returncode == 0, again.stderr
    assert [one["id"] for one in json.loads(again.stdout)] == [built.id], "nothing was downloaded or built"
    assert not (there / "wheelhouse").exists()


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    absent, text, other = tmp_path / "absent.tar", tmp_path / "text.tar", tmp_path / "other.tar"
    text.write_text("no archive")
    with tarfile.open(other, "w") as tar:
        tar.add(text, "something")
    for file, words in ((absent, "there is no such file"), (text, "holds no images"), (other, "holds no images")):
        with pytest.raises(InputError, match=words):
            transport.load(file, progress=pytest.fail)


@pytest.mark.parametrize("more", [{}, *({"images": [one], "base": None, "locks": {}} for one in (1, {"x": 1}))])
def test_a_manifest_of_another_shape_is_one_sentence(more: dict[str, Any], tmp_path: Path) -> None:
    content = json.dumps({"schema": transport.SCHEMA} | more).encode()
    entry = tarfile.TarInfo("bench.json")
    entry.size = len(content)
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        tar.addfile(entry, io.BytesIO(content))
    with pytest.raises(InputError, match="holds no images that bench images save wrote"):
        transport.load(tmp_path / "odd.tar", progress=pytest.fail)


def test_an_image_that_was_never_built_cannot_be_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "find", lambda *_, **__: None)
    with pytest.raises(
        InputError, match=r"there is no image of pytorch as locked \(cpu\) to save; bench images build makes it"
    ):
        transport.save(tmp_path / "images.tar", frameworks=["pytorch"], flavour="cpu", progress=pytest.fail)
    assert list(tmp_path.iterdir()) == []
