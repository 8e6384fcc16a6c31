"""Images of both frameworks, built on this machine's engine."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import uuid
import zipfile
from pathlib import Path
from typing import Any

import docker
import pytest
from absent import absent

from bench.engine import client as container_engine
from bench.errors import EnvironmentUnavailable, InputError
from bench.provision import base as base_image
from bench.provision import image as images
from bench.provision import locks
from bench.provision import wheels as wheelhouse
from bench.provision.image import Image, Wanted
from bench.provision.locks import Lock, Pin
from bench.provision.venv import environment

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = {"tensorflow": "tensorflow", "pytorch": "torch"}
BOTH = (Wanted("tensorflow"), Wanted("pytorch"))
# docker-py leaves the socket of a streamed answer to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
NOWHERE = "127.0.0.1:9/python:3.11-slim-bookworm"  # a registry that refuses at once


@pytest.fixture(scope="module")
def built() -> list[Image]:
    return images.build_all(wanted=BOTH, progress=print)


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
def test_an_image_says_where_it_comes_from_and_what_it_holds(built: list[Image], client: docker.DockerClient) -> None:
    for image in built:
        config = client.images.get(image.id).attrs["Config"]
        labels = config["Labels"]
        own = {key.removeprefix("org.opencontainers.image."): value for key, value in labels.items()}
        assert own["version"] == image.version
        assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", own["revision"])
        assert re.match(r"(https?|ssh|git|pkg):|[\w.-]+@", own["source"])
        assert own["base.digest"] == image.base
        assert labels["bench.lock"] == locks.committed_lock(image.framework).digest
        versions = json.loads(labels["bench.versions"])
        assert {"python", "numpy"} < versions.keys()
        assert versions["python"] == "3.11"
        assert config["User"] == "65534:65534"


@pytest.mark.docker
@pytest.mark.framework
def test_an_image_holds_no_more_than_its_base_and_a_bare_environment(
    built: list[Image], client: docker.DockerClient
) -> None:
    """Within a tenth of what the same wheels take where `local` installs them; no cache of pip or uv beside it."""
    for image in built:
        bare = environment(framework=image.framework, progress=print).python.parents[1]
        size = sum(path.lstat().st_size for path in bare.rglob("*") if not path.is_dir())
        base = client.images.get(image.base).attrs["Size"]
        assert image.size_bytes == pytest.approx(base + size, rel=0.1)
        found = hardened(client, image.id, "sh", "-c", "ls -d ~root/.cache /opt/cache /wheelhouse 2>/dev/null; true")
        assert found == ""


@pytest.mark.docker
@pytest.mark.framework
def test_a_second_build_takes_under_three_seconds_with_the_interpreters_start(built: list[Image]) -> None:
    code = (
        "from bench.provision import image as images; both = [images.Wanted('tensorflow'), images.Wanted('pytorch')]; "
        "print(*(i.id for i in images.build_all(wanted=both, progress=lambda _: None)))"
    )
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
    cached = build_cache(client)
    wheels = small_wheelhouse(tmp_path, default_base.python)
    if builder == "legacy":
        monkeypatch.setattr(images, "buildkit", lambda *_, **__: False)
    try:
        image = images._build(client, wheels, lock_of("0.0.2"), default_base)
        assert image == images.find("pytorch", "0.0.2")
        assert (image.base, image.flavour) == (default_base.id, "cpu")
        assert (
            hardened(client, image.id, "/opt/venv/bin/python", "-c", "import small; print(small.__name__)") == "small"
        )
        left = {name: entry for name, entry in build_cache(client).items() if name not in cached}
        assert {(entry["Description"].strip(), entry["Size"]) for entry in left.values()} <= {("from local", 0)}
        assert client.images.list(filters={"label": "bench.stage", "dangling": True}) == []
    finally:
        client.images.remove("bench-pytorch:0.0.2-cpu", force=True)


def build_cache(client: docker.DockerClient) -> dict[str, Any]:
    return {entry["ID"]: entry for entry in client.df().get("BuildCache") or []}


@pytest.mark.docker
def test_what_somebody_else_builds_meanwhile_stays_in_the_cache(
    client: docker.DockerClient, default_base: base_image.Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = small_wheelhouse(tmp_path, default_base.python)
    listed = container_engine._build_cache
    calls: list[set[str]] = []

    def looked(client: docker.DockerClient) -> list[dict[str, Any]]:
        """As it is asked for before a build and after it: just before the second time somebody's own build ends."""
        if calls:
            build_of_a_user(client, default_base.tag)
        found = listed(client)
        calls.append({entry["ID"] for entry in found})
        return found

    monkeypatch.setattr(container_engine, "_build_cache", looked)
    try:
        images._build(client, wheels, lock_of("0.0.3"), default_base)
        before, after = calls
        left = [entry for name, entry in build_cache(client).items() if name in after - before]
        told = sorted(
            entry["Description"].split(" ")[0] for entry in left if entry["Description"].strip() != "from local"
        )
        assert told == ["fileop", "fileop", "http", "mount"], "its context, packed and unpacked, its COPY and its RUN"
        assert any("users own build" in entry["Description"] for entry in left)
    finally:
        for name in ("bench-pytorch:0.0.3-cpu", "users-own:1"):
            client.images.remove(name, force=True)
        for name in set(build_cache(client)) - calls[0]:
            client.api.prune_builds(filters={"id": name}, all=True)  # type: ignore[arg-type]


def build_of_a_user(client: docker.DockerClient, base: str) -> None:
    """Through BuildKit, as `docker build` does it."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        dockerfile = f"FROM {base}\nCOPY data /data\nRUN echo users own build {uuid.uuid4().hex}\n"
        for name, data in {"Dockerfile": dockerfile.encode(), "data": uuid.uuid4().bytes * 1000}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    api: Any = client.api
    with api.post(
        f"{api.base_url}/v{api.api_version}/build", params={"version": "2", "t": "users-own:1"},
        data=context.getvalue(), headers={"Content-Type": "application/x-tar"}, stream=True,
    ) as answer:  # fmt: skip
        if not answer.ok or any(b'"error' in line for line in answer.iter_lines()):
            absent("this engine has no BuildKit")


def entry(name: str, parent: str = "", description: str = "fileop target", **more: Any) -> dict[str, Any]:
    """A record of BuildKit's cache as the engine tells it."""
    plain = {"ID": name, "Parent": parent, "Description": description, "InUse": False, "Size": 7, "CreatedAt": name}
    return plain | more


def test_a_record_is_a_builds_own_by_its_mark_by_what_it_stands_on_or_by_its_contexts_size() -> None:
    entries = [
        entry("0 base", description="from local "),
        entry("1 packed", description="http url http://build-context-x", Size=1111),
        entry("1 unpacked", Size=1000),
        entry("2 wheels", "0 base"),
        entry("3 mark", "2 wheels", "mount / from exec /bin/sh -c : MARK"),
        entry("4 install", "3 mark", "mount / from exec /bin/sh -c uv venv"),
        entry("5 theirs", "0 base", "mount / from exec /bin/sh -c make", Size=1111),
        entry("5 theirs too", "5 theirs"),
        entry("6 their context", Size=1001),
        entry("7 used", "4 install", InUse=True),
        entry("8 newer", Parents=["4 install", "unknown"], Parent=None),
    ]
    ours = [one["ID"] for one in container_engine.of_build(entries, mark="MARK", sizes={1000, 1111})]
    assert ours == ["8 newer", "4 install", "3 mark", "2 wheels", "1 unpacked", "1 packed"]
    assert container_engine.of_build(entries, mark="OTHER", sizes=set()) == []


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
    return wheelhouse.Wheelhouse(folder, "pytorch", "0.0.2", "cpu", python, "none", ())


def lock_of(version: str) -> Lock:
    """The lock that such a wheelhouse would have been gathered for."""
    return Lock("pytorch", "cpu", version, (Pin("torch", version, ("0" * 64,)),), committed=False)


@pytest.mark.docker
def test_find_knows_no_image_of_a_version_that_was_never_built() -> None:
    assert images.find("pytorch", "0.0.1") is None


@pytest.mark.docker
def test_a_build_that_fails_says_why_and_leaves_no_stage_behind(
    client: docker.DockerClient, default_base: base_image.Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    (tmp_path / "requirements.txt").write_text(f"numpy==0.0.1 --hash=sha256:{'0' * 64}\n")
    wheels = wheelhouse.Wheelhouse(tmp_path, "pytorch", "0.0.1", "cpu", default_base.python, "none", ())
    with pytest.raises(EnvironmentUnavailable, match=r"the image of pytorch 0\.0\.1 cannot be built.*numpy"):
        images._build(client, wheels, lock_of("0.0.1"), default_base)
    assert client.images.list(filters={"label": "bench.stage", "dangling": True}) == []
    assert images.find("pytorch", "0.0.1") is None


@pytest.mark.parametrize(("framework", "version"), [("jax", None), ("pytorch", "newest")])
def test_bad_input_is_refused_before_any_work(framework: str, version: str | None) -> None:
    with pytest.raises(InputError, match=r"jax|newest"):
        images.build(framework=framework, version=version, progress=pytest.fail)
    with pytest.raises(InputError, match=r"jax|newest"):
        images.build_all(wanted=[Wanted(framework, version)], progress=pytest.fail)


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
