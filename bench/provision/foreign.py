"""An image that bench did not build: official, vendor's or a team's own. What it lacks is said in one sentence.

The worker is mounted, so an image needs Python, NumPy and its framework alone. That is tried before anything is timed,
as the worker will run: nobody's user, no network, nothing writable but a scratch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from docker.errors import APIError, ContainerError

from bench import frameworks
from bench.engine.client import find_or_pull, run_once
from bench.engine.words import explained
from bench.errors import InputError
from bench.provision.locks import PYTHONS

if TYPE_CHECKING:
    from collections.abc import Callable

    import docker

# What workers set for themselves, whatever an image sets; PYTHONPATH is not among them (`python_path`).
OWN_VARIABLES = (
    "CUDA_CACHE_MAXSIZE", "CUDA_CACHE_PATH", "CUDA_VISIBLE_DEVICES", "GOMP_SPINCOUNT", "HOME", "KMP_BLOCKTIME",
    "MKL_NUM_THREADS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS", "PYTHONDONTWRITEBYTECODE",
    "PYTHONNOUSERSITE", "PYTHONSAFEPATH", "PYTHONUNBUFFERED", "USER",
)  # fmt: skip
_MARK = "bench-probe "
# Imports what the worker will; prints every version, or the error that the import ended with.
_PROBE = """
import importlib, json, sys
found = {"python": "%d.%d.%d" % sys.version_info[:3]}
for name in sys.argv[1:]:
    try:
        found[name] = str(importlib.import_module(name).__version__)
    except BaseException as error:
        found[name] = {"error": type(error).__name__ + ": " + " ".join(str(error).split())[:200]}
print("\\n" + %r + json.dumps(found))
""".replace("%r", repr(_MARK))


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """An image that can run a framework's worker; `versions` holds python, numpy and the framework, by name."""

    id: str
    python: str
    versions: dict[str, str]
    notes: tuple[str, ...]


def interpreter(labels: dict[str, str] | None) -> str:
    """The Python of an image: the framework environment of one that bench built, else what python3 is there."""
    return "/opt/venv/bin/python" if (labels or {}).get("bench.image") else "python3"


def variables(config: dict[str, Any]) -> dict[str, str]:
    """What an image sets, by name, from its configuration."""
    return dict(entry.split("=", 1) for entry in config.get("Env") or [] if "=" in entry)


def own_variables() -> set[str]:
    """All that workers set for themselves, of whichever framework."""
    return {*OWN_VARIABLES, *(name for one in frameworks.every().values() for name in one.variables)}


def python_path(root: str, config: dict[str, Any]) -> str:
    """The worker's own modules first, then what the image keeps on a PYTHONPATH of its own."""
    own = variables(config).get("PYTHONPATH")
    return f"{root}:{own}" if own else root


def inspect(client: docker.DockerClient, name: str, framework: str, progress: Callable[[str], None]) -> Foreign:
    """Find or pull an image and try whether it can run the framework's worker.

    raises  EnvironmentUnavailable: it cannot be had
            InputError: it cannot be run, or lacks Python, NumPy or the framework
    """
    image = find_or_pull(client, name, "the image", "name one that docker images lists", progress)
    attributes = client.images.get(image).attrs
    config = attributes.get("Config") or {}
    module = frameworks.every()[framework].module
    found = _probed(client, image, name, interpreter(config.get("Labels")), ("numpy", module))
    _refuse_lacking(name, framework, found)
    digests = attributes.get("RepoDigests") or []
    origin = digests[0] if digests else "of this machine, with no digest of a registry"
    notes = [f"{framework}: image {name} ({origin}) was not built by bench: it holds what its maker chose"]
    given = {variable: value for variable, value in variables(config).items() if variable in own_variables()}
    if given:
        told = ", ".join(f"{variable} ({value})" for variable, value in sorted(given.items()))
        notes.append(
            f"{framework}: image {name} sets {told}: not in force, for workers of every framework set their own"
        )
    versions = {"numpy": str(found["numpy"]), framework: str(found[module])}
    return Foreign(id=image, python=str(found["python"]), versions=versions, notes=tuple(notes))


def _probed(
    client: docker.DockerClient, image: str, name: str, python: str, modules: tuple[str, ...]
) -> dict[str, Any]:
    """What the probe prints; raises InputError where nothing can be run in the image."""
    try:
        said = run_once(
            client, image, ["-c", _PROBE, *modules], entrypoint=[python], read_only=True,
            user="65534:65534", cap_drop=["ALL"], tmpfs={"/tmp": "exec"}, working_dir="/tmp",  # noqa: S108
            environment={"HOME": "/tmp", "PYTHONNOUSERSITE": "1", "NVIDIA_VISIBLE_DEVICES": "void"},  # noqa: S108
        )  # fmt: skip
    except (ContainerError, APIError) as error:
        said = " ".join(str(getattr(error, "explanation", None) or error).split())
        absent = "executable file not found" in said or "no such file or directory" in said
        reason = said[-200:] if isinstance(error, ContainerError) else explained(error, client)
        why = f"it has no {python}" if absent else f"its {python} fails ({reason})"
        raise InputError(
            f'image "{name}" cannot run a worker: {why}; it needs Python {PYTHONS[0]} or later, NumPy and its framework'
        ) from None
    try:
        return dict(json.loads(said.partition(_MARK)[2].partition("\n")[0]))
    except ValueError:
        raise InputError(
            f'image "{name}" cannot run a worker: importing {" and ".join(modules)} ended its {python} without a word'
        ) from None


def _refuse_lacking(name: str, framework: str, found: dict[str, Any]) -> None:
    """One sentence with all that is missing."""
    lacking = [f"{module} ({state['error']})" for module, state in found.items() if isinstance(state, dict)]
    if tuple(map(int, str(found["python"]).split(".")[:2])) < tuple(map(int, PYTHONS[0].split("."))):
        lacking.insert(0, f"Python {PYTHONS[0]} or later (it has {found['python']})")
    if lacking:
        raise InputError(
            f'image "{name}" cannot run {framework}: it lacks {" and ".join(lacking)}; '
            f"the worker is mounted, so Python, NumPy and the framework are all that an image needs"
        )
