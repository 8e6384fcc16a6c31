"""Which PyTorch wheel: the CPU build, wherever this machine can get it, and never gigabytes of CUDA unasked."""

from __future__ import annotations

import json
import os
import re
import tempfile
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import EnvironmentUnavailable
from bench.provision.pip import PipFailed, fitting, pip, uv, without_password

if TYPE_CHECKING:
    from bench.provision.locks import Target

# Metadata takes seconds; a server that can only send whole wheels is not waited for.
_CANDIDATE_LIMIT_S = 120.0
_INDEX_LIMIT_S = 60.0
_GPU_PACKAGE = re.compile(r"(nvidia|cuda|pytorch-triton)[-_]", re.IGNORECASE)


@dataclass(frozen=True)
class Wheel:
    """What to ask pip for; `origin` says in a few words who offers it, `warning` what is odd about it."""

    requirement: str
    origin: str
    warning: str | None = None


class NoCpuBuild(EnvironmentUnavailable):
    """Nobody offers a CPU build; `cuda` is the CUDA build that pip would take, where there is one."""

    def __init__(self, message: str, cuda: Wheel | None) -> None:
        super().__init__(message)
        self.cuda = cuda


@dataclass(frozen=True)
class _Candidate:
    """What pip would take: its version, its file, and the GPU packages that it would bring."""

    version: str
    file: str
    gpu_packages: tuple[str, ...]

    @property
    def is_cpu(self) -> bool:
        local = self.version.partition("+")[2]
        return local == "cpu" or (not local and not self.gpu_packages)


def find_wheel(*, version: str, target: Target) -> Wheel:
    """The wheel for the target's flavour; where a release has no CPU build here, its CUDA build with a warning.

    raises  EnvironmentUnavailable: there is neither
    """
    if target.flavour == "cuda":
        return Wheel(f"torch==={version}", "pip's own configuration")
    try:
        return find_cpu_wheel(version=version, target=target)
    except NoCpuBuild as nowhere:
        if nowhere.cuda is None:
            raise
        warning = (
            f"no CPU build of torch {version} can be had here: taking its CUDA build, gigabytes, to run on the CPU"
        )
        return Wheel(nowhere.cuda.requirement, nowhere.cuda.origin, warning)


def find_cpu_wheel(*, version: str, target: Target) -> Wheel:
    """Ask pip's own sources for metadata, then PyTorch's CPU index; downloads no wheel.

    BENCH_TORCH_INDEX, an index or a folder of wheels as a URL or path, takes the place of PyTorch's own index.
    raises  NoCpuBuild: neither has one for this Python and machine
    """
    cuda = None
    try:
        candidate = _pip_candidate(version=version, target=target)
        if candidate.is_cpu:
            return Wheel(f"torch=={candidate.version}", "pip's own configuration")
        cuda = Wheel(f"torch==={candidate.version}", "pip's own configuration")
        offered = f"pip would fetch the CUDA build {candidate.file}, gigabytes with its libraries, which is refused"
    except PipFailed as failure:
        offered = f"pip offers no torch {version} for Python {target.python} on {target.machine} ({failure})"
    index = os.environ.get("BENCH_TORCH_INDEX")
    told = without_password(index) if index else "PyTorch's CPU index"
    try:
        return Wheel(f"torch @ {_index_url(version=version, target=target, index=index)}", told)
    except PipFailed as failure:
        asked = f"BENCH_TORCH_INDEX {told}" if index else told
        raise NoCpuBuild(
            f"no CPU build of torch {version} for Python {target.python} can be had: {offered}, and {asked} gives none "
            f"({failure}); put a CPU wheel into a folder that pip's find-links names, "
            f"or set BENCH_TORCH_INDEX to an index or folder that holds one",
            cuda,
        ) from None


def _pip_candidate(*, version: str, target: Target) -> _Candidate:
    """What pip would take under the user's configuration, from metadata alone (fast-deps asks for ranges)."""
    with tempfile.TemporaryDirectory(prefix="bench-") as nowhere:
        report = pip(
            "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--use-feature=fast-deps",
            f"--target={nowhere}", *fitting(target), "--report=-", f"torch=={version}",
            timeout_s=_CANDIDATE_LIMIT_S,
        )  # fmt: skip
    found: dict[str, Any] = json.loads(report)["install"][0]
    metadata = found["metadata"]
    needs = [need for need in metadata.get("requires_dist", []) if _GPU_PACKAGE.match(need) and _applies(need, target)]
    return _Candidate(metadata["version"], found["download_info"]["url"].rpartition("/")[2], tuple(needs))


def _applies(requirement: str, target: Target) -> bool:
    """Whether a requirement counts on this machine without extras."""
    marker = requirement.partition(";")[2]
    machines = re.findall(r"""platform_machine == ["'](\w+)""", marker)
    return "extra ==" not in marker and (not machines or target.machine in machines)


def _index_url(*, version: str, target: Target, index: str | None) -> str:
    """The URL of the wheel in PyTorch's CPU index, which uv knows, or in `index`; the index's hash rides along."""
    source = ["--torch-backend=cpu"] if index is None else [f"--default-index={index}", f"--find-links={index}"]
    answer = uv(
        "pip", "compile", "-", "--quiet", "--no-header", "--no-deps", "--only-binary=:all:", "--format=pylock.toml",
        f"--python-version={target.python}", f"--python-platform={target.machine}-manylinux_2_28", *source,
        stdin=f"torch=={version}\n", timeout_s=_INDEX_LIMIT_S,
    )  # fmt: skip
    packages = tomllib.loads(answer).get("packages", [])
    python = "cp" + target.python.replace(".", "")
    for package in packages:
        local = package["version"].partition("+")[2]
        for wheel in package.get("wheels", []):
            url = str(wheel.get("url") or wheel.get("path"))
            if local in {"", "cpu"} and f"-{python}-{python}-" in url and url.endswith(f"{target.machine}.whl"):
                digest = wheel.get("hashes", {}).get("sha256")
                return f"{url}#sha256={digest}" if digest else url
    raise PipFailed("it lists no wheel for them")
