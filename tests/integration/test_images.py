"""Images of both frameworks, built on this machine's engine; and bases that are odd, tampered with or out of reach."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import io
import json
import platform
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import docker
import pytest

from bench import base_image, images, wheelhouse
from bench.base_image import choose
from bench.container_engine import run_build
from bench.errors import EnvironmentUnavailable, InputError
from bench.images import Image

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = {"tensorflow": "tensorflow", "pytorch": "torch"}
# docker-py leaves the socket of a streamed answer to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
NOWHERE = "127.0.0.1:9/python:3.11-slim-bookworm"  # a registry that refuses at once


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Such sockets go within the test that left them."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    client = images.engine()
    yield client
    client.close()


@pytest.fixture(scope="module")
def built() -> list[Image]:
    return images.build_all(progress=print)


def hardened(client: docker.DockerClient, image: str, *command: str) -> str:
    """What a command prints in a container as the docker launcher starts it."""
    output = client.containers.run(
        image, list(command), remove=True, network_mode="none", read_only=True, cap_drop=["ALL"],
        security_opt=["no-new-privileges"], tmpfs={"/tmp": "exec"}, stderr=False,
    )  # fmt: skip
    return str(output.decode().strip())


# The images


@pytest.mark.docker
@pytest.mark.framework
def test_both_images_stand_on_one_base_and_are_listed(built: list[Image]) -> None:
    assert len({image.base for image in built}) == 1
    assert len({image.id for image in built}) == 2
    listed = images.list_images()
    for image in built:
        assert image in listed
        assert images.find(image.framework) == image
        assert image.version == wheelhouse.locked_version(image.framework)
        assert image.size_bytes > 2**29
    keys = {"framework", "version", "flavour", "id", "base", "size_bytes"}
    assert {field.name for field in dataclasses.fields(Image)} == keys


@pytest.mark.docker
@pytest.mark.framework
@pytest.mark.parametrize("framework", ["tensorflow", "pytorch"])
def test_a_framework_imports_read_only_without_network_as_nobody(
    built: list[Image], client: docker.DockerClient, framework: str
) -> None:
    image = next(image for image in built if image.framework == framework)
    other = next(module for name, module in MODULES.items() if name != framework)
    code = f"import {MODULES[framework]} as m, os, importlib.util as u; "
    code += f"print(m.__version__, os.getuid(), u.find_spec('{other}'))"
    version, user, absent = hardened(client, image.id, "/opt/venv/bin/python", "-c", code).split()
    assert (version.partition("+")[0], user, absent) == (image.version, "65534", "None")


@pytest.mark.docker
@pytest.mark.framework
def test_both_images_hold_one_compiler_one_python_and_one_numpy(
    built: list[Image], client: docker.DockerClient
) -> None:
    script = (
        "c++ --version | head -1; /opt/venv/bin/python -c 'import sys, numpy; print(sys.version, numpy.__version__)'"
    )
    answers = {hardened(client, image.id, "sh", "-c", script) for image in built}
    assert len(answers) == 1
    assert len(answers.pop().splitlines()) >= 2


@pytest.mark.docker
@pytest.mark.framework
def test_code_against_pythons_headers_compiles_in_both_images_as_torch_compile_needs(
    built: list[Image], client: docker.DockerClient
) -> None:
    headers = "/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path(\"include\"))'"
    script = f"echo '#include <Python.h>' | c++ -x c++ -fsyntax-only -I $({headers}) - && echo compiled"
    for image in built:
        assert hardened(client, image.id, "sh", "-c", script) == "compiled"


@pytest.mark.docker
@pytest.mark.framework
def test_a_second_build_takes_under_three_seconds_with_the_interpreters_start(built: list[Image]) -> None:
    code = "from bench import images; print(*(i.id for i in images.build_all(progress=lambda _: None)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=3, cwd=REPOSITORY
    )
    assert done.stdout.split() == [image.id for image in built]


@pytest.mark.docker
@pytest.mark.framework
def test_a_build_leaves_no_stage_behind(built: list[Image], client: docker.DockerClient) -> None:
    assert client.images.list(filters={"label": "bench.stage", "dangling": True}) == []


@pytest.mark.docker
@pytest.mark.parametrize("builder", ["buildkit", "legacy"])
def test_either_builder_makes_the_same_image_and_leaves_no_cache(
    client: docker.DockerClient, default_base: base_image.Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    builder: str,
) -> None:  # fmt: skip
    cached = {entry["ID"] for entry in client.df().get("BuildCache") or []}
    wheels = small_wheelhouse(tmp_path, default_base.python)
    if builder == "legacy":
        monkeypatch.setattr(images, "buildkit", lambda *_, **__: False)
    try:
        image = images._build(client, wheels, default_base)
        assert image == images.find("pytorch", "0.0.2")
        assert (image.base, image.flavour) == (default_base.id, "cpu")
        assert (
            hardened(client, image.id, "/opt/venv/bin/python", "-c", "import small; print(small.__name__)") == "small"
        )
        assert {entry["ID"] for entry in client.df().get("BuildCache") or []} <= cached
        assert client.images.list(filters={"label": "bench.stage", "dangling": True}) == []
    finally:
        client.images.remove("bench-pytorch:0.0.2-cpu", force=True)


def small_wheelhouse(folder: Path, python: str) -> wheelhouse.Wheelhouse:
    """A wheelhouse with one module of nothing."""
    wheel, info = folder / "small-1.0-py3-none-any.whl", "small-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("small/__init__.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"small/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (folder / "requirements.txt").write_text(f"small==1.0 --hash=sha256:{digest}\n")
    return wheelhouse.Wheelhouse(folder, "pytorch", "0.0.2", python, "none", ())


@pytest.mark.docker
def test_find_knows_no_image_of_a_version_that_was_never_built() -> None:
    assert images.find("pytorch", "0.0.1") is None


@pytest.mark.docker
def test_a_build_that_fails_says_why_and_leaves_no_stage_behind(
    client: docker.DockerClient, default_base: base_image.Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    (tmp_path / "requirements.txt").write_text(f"numpy==0.0.1 --hash=sha256:{'0' * 64}\n")
    wheels = wheelhouse.Wheelhouse(tmp_path, "pytorch", "0.0.1", default_base.python, "none", ())
    with pytest.raises(EnvironmentUnavailable, match=r"the image of pytorch 0\.0\.1 cannot be built.*numpy"):
        images._build(client, wheels, default_base)
    assert client.images.list(filters={"label": "bench.stage", "dangling": True}) == []
    assert images.find("pytorch", "0.0.1") is None


@pytest.mark.parametrize(("framework", "version"), [("jax", None), ("pytorch", "newest")])
def test_bad_input_is_refused_before_any_work(framework: str, version: str | None) -> None:
    with pytest.raises(InputError, match=r"jax|newest"):
        images.build(framework=framework, version=version, progress=pytest.fail)
    with pytest.raises(InputError, match=r"jax|newest"):
        images.build_all(wanted=[(framework, version)], progress=pytest.fail)


# The engine


@pytest.mark.parametrize(
    ("address", "words"),
    [("unix:///nowhere/docker.sock", "no Docker engine answers at"), ("tcp://127.0.0.1:9", "systemctl start docker")],
)
def test_an_engine_that_does_not_answer_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, address: str, words: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(EnvironmentUnavailable, match=words) as missing:
        images.engine()
    assert address in str(missing.value)
    assert "\n" not in str(missing.value)


def test_a_socket_without_permission_names_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise docker.errors.DockerException("Error: ('Connection aborted.', PermissionError(13, 'Permission denied'))")

    monkeypatch.setattr(docker, "DockerClient", refuse)
    with pytest.raises(EnvironmentUnavailable, match="sudo usermod -aG docker"):
        images.engine()


# The base


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered of earlier choices, and nothing of this test's."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def default_base(client: docker.DockerClient) -> base_image.Base:
    return choose(client, base=None, progress=print)


@pytest.fixture
def derive(client: docker.DockerClient, default_base: base_image.Base) -> Iterator[Callable[[str], str]]:
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
    client: docker.DockerClient, default_base: base_image.Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    for given in (default_base.tag, default_base.id):
        assert choose(client, base=given, progress=print) == default_base
    assert not base_image.is_settled()  # a base given once is no default


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
    monkeypatch.setattr(base_image, "OFFICIAL", NOWHERE)
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
    monkeypatch.setattr(base_image, "OFFICIAL", NOWHERE)
    monkeypatch.setattr(base_image, "_made_name", lambda: "bench-base:absent")
    with pytest.raises(EnvironmentUnavailable, match="sudo apt-get install mmdebstrap"):
        choose(client, base=None, progress=print)


class Registry(ThreadingHTTPServer):
    """An image registry on this machine, with one repository whose tag can be moved."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.blobs: dict[str, tuple[str, bytes]] = {}
        self.tagged = ""
        self.official = f"127.0.0.1:{self.server_port}/python:3.11-slim-bookworm"

    def put(self, content: bytes, kind: str = "application/octet-stream") -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs[digest] = (kind, content)
        return {"mediaType": kind, "size": len(content), "digest": digest}

    def release(self, text: str) -> str:
        """Move the tag to a new image that holds one file with `text`; gives its digest."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            entry = tarfile.TarInfo("release")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        layer = self.put(buffer.getvalue(), "application/vnd.docker.image.rootfs.diff.tar")
        machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
        rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
        config = json.dumps({"architecture": machine, "os": "linux", "config": {}, "rootfs": rootfs}).encode()
        described = self.put(config, "application/vnd.docker.container.image.v1+json")
        manifest = {"schemaVersion": 2, "mediaType": kind, "config": described, "layers": [layer]}
        self.tagged = str(self.put(json.dumps(manifest).encode(), kind)["digest"])
        return self.tagged


class _Answer(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        digest = name if name.startswith("sha256:") else self.server.tagged
        kind, content = self.server.blobs.get(digest, ("text/plain", b"")) if name else ("application/json", b"{}")
        self.send_response(200 if content else 404)
        content = content or b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Docker-Content-Digest", digest)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, client: docker.DockerClient) -> Iterator[Registry]:
    server = Registry()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(base_image, "OFFICIAL", server.official)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
    for image in client.images.list(server.official.rpartition(":")[0]):
        client.images.remove(str(image.id), force=True)


@pytest.mark.docker
def test_the_digest_of_the_official_base_is_recorded_at_the_first_pull_and_held(
    registry: Registry, client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    digest = registry.release("first")
    first = base_image._default(client, base_image._load(), print)
    held = base_image._load()["default"]
    assert held == {"reference": f"{registry.official.rpartition(':')[0]}@{digest}", "source": first}
    assert registry.release("second") != digest  # the tag moves on
    client.images.remove(held["reference"], force=True)
    assert base_image._default(client, base_image._load(), print) == first
    assert base_image._load()["default"] == held


@pytest.mark.docker
def test_a_held_digest_outlives_a_registry_that_is_down_for_a_day(
    registry: Registry, client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(base_image, "_made", lambda *_: "sha256:made-here")
    registry.release("first")
    first = base_image._default(client, base_image._load(), print)
    held = base_image._load()["default"]
    client.images.remove(held["reference"], force=True)
    blobs, registry.blobs = registry.blobs, {}
    said: list[str] = []
    assert base_image._default(client, base_image._load(), said.append) == "sha256:made-here"
    assert "no image registry gives" in said[-1]
    assert base_image._load()["default"] == held
    registry.blobs = blobs
    assert base_image._default(client, base_image._load(), print) == first
