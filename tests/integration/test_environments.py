"""Environments of the local launcher: real ones of both frameworks from the user's cache, and tiny ones made here."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench import frameworks, paths
from bench.errors import EnvironmentUnavailable
from bench.provision import venv
from bench.provision import wheels as wheelhouse
from bench.provision.venv import Environment, environment

MODULES = {"tensorflow": "tensorflow", "pytorch": "torch"}


def ask(python: Path, code: str) -> str:
    done = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, check=True, env={"HOME": "/tmp"})
    return done.stdout.strip()


@pytest.fixture(scope="module", params=["tensorflow", "pytorch"])
def real(request: pytest.FixtureRequest) -> Environment:
    return environment(framework=request.param, progress=print)


@pytest.mark.framework
def test_an_environment_imports_its_framework_at_the_locked_version_and_not_the_other(real: Environment) -> None:
    own, other = (MODULES[real.framework], *(module for name, module in MODULES.items() if name != real.framework))
    absent = [other, "click", "pip"]
    answer = ask(
        real.python, f"import {own} as m, importlib.util as u; print(m.__version__, *map(u.find_spec, {absent}))"
    )
    assert answer.partition("+")[0].split()[0] == wheelhouse.locked_version(real.framework)
    assert answer.split()[1:] == ["None", "None", "None"]


@pytest.mark.framework
def test_an_environment_is_found_again_in_milliseconds(real: Environment) -> None:
    start = time.perf_counter()
    assert environment(framework=real.framework, progress=pytest.fail) == real
    assert time.perf_counter() - start < 0.1


@pytest.mark.framework
def test_bytecode_is_compiled_so_that_no_worker_pays_for_it(real: Environment) -> None:
    module = MODULES[real.framework]
    code = f"import importlib.util as u; s = u.find_spec('{module}'); print(u.cache_from_source(s.origin))"
    assert Path(ask(real.python, code)).exists()


@pytest.mark.framework
def test_both_environments_hold_the_same_numpy() -> None:
    numpys = set()
    for framework in MODULES:
        python = environment(framework=framework, progress=print).python
        numpys.add(ask(python, "import numpy; print(numpy.__version__)"))
    assert len(numpys) == 1


# The same code with two tiny packages, so that every way of failing can be walked


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of torch 9.9.0+cpu and NumPy 1.0, both empty, offered by a folder of wheels."""
    links, root = tmp_path / "links", tmp_path / "images"
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    tags = f"{python}-{python}-manylinux_2_28_{platform.machine()}"
    pins = [_pin(links, "numpy", "1.0", "py3-none-any"), _pin(links, "torch", "9.9.0+cpu", tags)]
    (root / "pytorch").mkdir(parents=True)
    (root / "pytorch" / "requirements-cpu.lock").write_text("\n".join(pins) + "\n")
    (root / "pytorch" / "wheels.sha256").write_text("")
    shutil.copy(paths.images_root() / "pytorch" / frameworks.FILE, root / "pytorch")
    monkeypatch.setattr(paths, "images_root", lambda: root)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    return links


def _pin(folder: Path, name: str, version: str, tags: str) -> str:
    folder.mkdir(exist_ok=True)
    path, info = folder / f"{name}-{version}-{tags}.whl", f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f"__version__ = '{version}'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tags}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def make(**arguments: object) -> Environment:
    return environment(framework="pytorch", progress=lambda _: None, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("with_uv", [True, False], ids=["uv", "venv-and-pip"])
def test_an_environment_works_with_uv_and_without(tiny: Path, monkeypatch: pytest.MonkeyPatch, with_uv: bool) -> None:
    if not with_uv:
        monkeypatch.setattr(venv, "uv_binary", lambda: None)
    found = make()
    assert ask(found.python, "import torch; print(torch.__version__)") == "9.9.0+cpu"
    assert ask(found.python, "import sys; print(sys.prefix)") == str(found.python.parents[1])
    assert list(found.python.parents[1].glob("lib/python3*/site-packages/torch/__pycache__/*.pyc"))


def test_an_unfinished_environment_is_made_again(tiny: Path) -> None:
    found = make()
    (found.python.parents[1] / "bench.json").unlink()  # what a kill before the end leaves
    (found.python.parents[1] / "half-a-package").mkdir()
    assert make() == found
    assert not (found.python.parents[1] / "half-a-package").exists()


def test_an_environment_whose_interpreter_is_gone_is_made_again(tiny: Path) -> None:
    found = make()
    found.python.unlink()
    assert ask(make().python, "print(1)") == "1"


def test_concurrent_callers_get_one_environment_made_once(tiny: Path) -> None:
    said: list[str] = []
    with ThreadPoolExecutor(6) as pool:
        found = set(pool.map(lambda _: environment(framework="pytorch", progress=said.append), range(6)))
    assert len(found) == 1
    assert sum("making the environment" in line for line in said) == 1


def test_a_finished_environment_needs_no_wheels_any_more(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = make()
    monkeypatch.setattr(wheelhouse, "gather", pytest.fail)
    assert make() == found


def test_a_wheel_that_changed_in_the_wheelhouse_is_refused(tiny: Path) -> None:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheels = wheelhouse.gather(framework="pytorch", version=None, python=python, progress=lambda _: None)
    with zipfile.ZipFile(next(wheels.path.glob("numpy*")), "a") as wheel:
        wheel.writestr("numpy/extra.py", "import os")
    with pytest.raises(EnvironmentUnavailable, match="cannot be installed from"):
        make()


def test_a_python_outside_the_locks_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = namedtuple("version", "major minor micro")
    monkeypatch.setattr(sys, "version_info", version(3, 10, 0))
    with pytest.raises(EnvironmentUnavailable, match=r"Python 3\.10 is outside 3\.11 to 3\.13.*choose an interpreter"):
        make()


def test_no_way_to_make_an_environment_names_the_debian_package(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venv, "uv_binary", lambda: None)
    monkeypatch.setattr(sys, "_base_executable", "/nowhere/python3")
    with pytest.raises(EnvironmentUnavailable, match="sudo apt-get install python3-venv"):
        make()
