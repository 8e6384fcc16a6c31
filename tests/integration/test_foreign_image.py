"""Images that bench did not build: what they lack is one sentence, and what serves is measured."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.engine.client import run_build
from bench.errors import EnvironmentUnavailable, InputError
from bench.provision import base as base_image
from bench.provision import foreign, image

if TYPE_CHECKING:
    import docker

# docker-py leaves the socket of a streamed answer to the garbage collector.
pytestmark = [pytest.mark.docker, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]
NAME = "team-bench:test"
SITE = "$(python3 -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))')"
WRAPPER = r"""printf '#!/bin/sh\nexec /opt/venv/bin/python "$@"\n'"""
PACKAGES = "/opt/venv/lib/python3.11/site-packages"
BROKEN = f"echo 'raise OSError(\"libcudart.so.13: cannot open\")' > {SITE}/torch/__init__.py"
Derive = Callable[..., str]
ON_THE_PATH = ("true", f"ENV PYTHONPATH={PACKAGES} OMP_NUM_THREADS=8", "USER 1234", 'ENTRYPOINT ["/bin/false"]')
OWN_PYTHON = (f"{WRAPPER} > /usr/local/bin/python3 && chmod +x /usr/local/bin/python3",)


@pytest.fixture
def derive(client: docker.DockerClient) -> Iterator[Derive]:
    """Make an image of somebody's own, from a parent, one command and more instructions; removed afterwards."""

    def build(parent: str, run: str, *more: str) -> str:
        lines = [f"FROM {parent}", "USER root", f"RUN {run}", "LABEL bench.image=", *more]
        dockerfile = io.BytesIO("\n".join([*lines, ""]).encode())
        built = run_build(client, what=NAME, fileobj=dockerfile, tag=NAME, network_mode="none")
        assert built
        return NAME

    yield build
    client.images.remove(NAME, force=True)


def python_with(*modules: str) -> str:
    """A shell command that gives a base's own Python modules of nothing, with versions."""
    return " && ".join(
        f"mkdir -p {SITE}/{name} && echo '__version__ = \"9.9\"' > {SITE}/{name}/__init__.py" for name in modules
    )


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (python_with("torch"), r"cannot run pytorch: it lacks numpy \(ModuleNotFoundError: No module named 'numpy'\)"),
        (
            python_with("numpy"),
            r"it lacks torch \(ModuleNotFoundError: No module named 'torch'\); the worker is mounted",
        ),
        (
            "rm -f /usr/bin/python3* /usr/local/bin/python3*",
            "cannot run a worker: it has no python3; it needs Python 3.11",
        ),
        (
            f"{python_with('numpy', 'torch')} && {BROKEN}",
            r"it lacks torch \(OSError: libcudart\.so\.13: cannot open\)",
        ),
    ],
)
def test_what_an_image_lacks_is_one_sentence_before_anything_is_timed(
    client: docker.DockerClient, derive: Derive, command: str, sentence: str
) -> None:
    base = base_image.choose(client, base=None, progress=print)
    name = derive(base.tag, command)
    with pytest.raises(InputError, match=sentence) as refused:
        foreign.inspect(client, name, "pytorch", print)
    assert f'image "{NAME}"' in str(refused.value)
    assert "\n" not in str(refused.value)
    assert client.containers.list(all=True, filters={"ancestor": NAME}) == []


def test_an_image_that_is_nowhere_is_one_sentence(client: docker.DockerClient) -> None:
    with pytest.raises(EnvironmentUnavailable, match=r"the image 127\.0\.0\.1:9/none:1 is neither on this engine nor"):
        foreign.inspect(client, "127.0.0.1:9/none:1", "pytorch", print)


@pytest.mark.framework
@pytest.mark.parametrize("recipe", [OWN_PYTHON, ON_THE_PATH], ids=["python3", "PYTHONPATH"])
def test_a_teams_own_image_runs_by_its_id_and_the_report_says_whose_it_is(
    client: docker.DockerClient, derive: Derive, tmp_path: Path, recipe: tuple[str, ...]
) -> None:
    """A framework's environment on the PATH of an image without bench's labels, as a vendor's image has it.

    Or its packages on a PYTHONPATH, beside a user, an entry point and threads of its own.
    """
    built = image.build(framework="pytorch", progress=print)
    derive(built.id, *recipe)
    own = str(client.images.get(NAME).id)
    (tmp_path / "m.yaml").write_text(
        "compare: framework\naxes:\n"
        "  workload: [{name: linear_regression, preset: classic, evaluate_steps: 20}]\n"
        f"  framework: [{{name: pytorch, version: {built.version}}}, {{name: pytorch, image: '{own}'}}]\n"
        "budget: {blocks: 2}\n"
    )
    command = [sys.executable, "-m", "bench"]
    ran = subprocess.run(
        [*command, "run", "--matrix", "m.yaml", "--launcher", "docker", "--out", "runs"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    shown = subprocess.run(
        [*command, "report", str(folder), "--format", "json"], capture_output=True, check=True
    )  # fmt: skip
    (contrast,) = json.loads(shown.stdout)["contrasts"]
    assert contrast["parity"]["status"] == "passed"
    assert contrast["ratio"] > 0
    assert any("an image that bench did not build" in one for one in contrast["confounders"])
    notes = json.loads((folder / "run.json").read_text())["notes"]
    assert any("was not built by bench" in note for note in notes)
    overruled = [note for note in notes if "OMP_NUM_THREADS (8)" in note and "not in force" in note]
    assert bool(overruled) == (recipe is ON_THE_PATH)
