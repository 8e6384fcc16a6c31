"""`nox -s lock`: the committed locks made anew from requirements-*.in, and the base's tag held to its digest of today.

uv resolves, from the indexes that this user's pip is configured with: a private one serves as well as the public one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from bench import frameworks as known
from bench.engine.client import engine
from bench.errors import BenchError, EnvironmentUnavailable
from bench.provision import base, locks
from bench.provision.network import trusting
from bench.provision.pip import PipFailed, pip_folders, pip_indexes, uv

RECIPES = Path(__file__).resolve().parent
PYTHON = locks.PYTHONS[0]
FLAVOURS = ("cpu", "cuda")
TORCH_INDEX = "--torch-backend=cpu"  # the address of PyTorch's own index, as uv knows it
_LIMIT_S = 600.0

Progress = Callable[[str], None]


def relock(
    *, frameworks: Sequence[str], flavours: Sequence[str], upgrade: bool, progress: Progress, folder: Path = RECIPES
) -> list[str]:
    """Write every lock that changed; one line for each change, empty where nothing did.

    raises  EnvironmentUnavailable: uv cannot resolve, or the two sides would have different NumPys
    """
    wanted = [(name, flavour) for name in frameworks for flavour in flavours if flavour in known.every()[name].packages]
    made = {one: _resolved(folder, *one, upgrade, progress) for one in wanted}
    _refuse_unequal(folder, made)
    changed = []
    for (framework, flavour), text in made.items():
        path = _lock(folder, framework, flavour)
        if text != (path.read_text() if path.exists() else ""):
            path.write_text(text)
            changed.append(f"{framework}: {path.name} changed")
    for name in frameworks:
        if known.every()[name].cpu_wheel and "cpu" in flavours:
            changed += _write_wheel_hashes(folder, name)
    return changed + _hold_base(progress)


def _resolved(folder: Path, framework: str, flavour: str, upgrade: bool, progress: Progress) -> str:
    """What uv makes of requirements-FLAVOUR.in, with the pins of today's lock kept where they still serve."""
    progress(f"resolving {framework} for {flavour}")
    wanted = folder / framework / f"requirements-{flavour}.in"
    overrides = folder / framework / f"overrides-{flavour}.txt"
    # CPU locks hold for every machine; CUDA's wheels exist for one, and its markers would fill the lock.
    options = ["--python-platform=x86_64-manylinux_2_28"] if flavour == "cuda" else ["--universal"]
    options += [f"--override={overrides}"] if overrides.exists() else []
    options += ["--upgrade"] if upgrade else []
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        out = Path(scratch) / "lock"
        if (before := _lock(folder, framework, flavour)).exists():
            shutil.copy(before, out)
        command = ["pip", "compile", str(wanted), f"--output-file={out}", "--generate-hashes", *options]
        _compile(command, framework, flavour)
        text = out.read_text()
    for pin in locks.parse(text, framework=framework, flavour=flavour, committed=True).pins:
        if not pin.hashes:
            raise EnvironmentUnavailable(f"{framework} ({flavour}): no hash of {pin.name} {pin.version} can be had")
    return text


def _compile(command: Sequence[str], framework: str, flavour: str, stdin: str = "") -> str:
    """Run uv, which knows PyTorch's CPU index; where that does not answer, the folders that pip is given may serve.

    pip's folders are left out of every other lock: 2.13.0+cpu found there would pass for 2.13.0.
    """
    cpu_torch = flavour == "cpu" and known.every()[framework].cpu_wheel
    sources = [lambda: [TORCH_INDEX], pip_folders] if cpu_torch else [list]
    for number, source in enumerate(sources):
        try:
            common = ["--quiet", "--no-header", "--no-annotate", f"--python-version={PYTHON}"]
            return uv(*command, *common, *pip_indexes(), *source(), stdin=stdin, timeout_s=_LIMIT_S)
        except PipFailed as failure:
            if number == len(sources) - 1:
                raise EnvironmentUnavailable(f"{framework} ({flavour}) cannot be resolved: {failure}") from None
    raise AssertionError("a source at least is tried")


def _refuse_unequal(folder: Path, made: dict[tuple[str, str], str]) -> None:
    """All frameworks compute with one NumPy, on either flavour."""
    numpys = {}
    for framework, one in known.every().items():
        for flavour in one.packages:
            text = made.get((framework, flavour)) or _lock(folder, framework, flavour).read_text()
            lock = locks.parse(text, framework=framework, flavour=flavour, committed=True)
            numpys[f"{framework} ({flavour})"] = next(pin.version for pin in lock.pins if pin.name == "numpy")
    if len(set(numpys.values())) > 1:
        told = ", ".join(f"{numpy} in {where}" for where, numpy in numpys.items())
        raise EnvironmentUnavailable(
            f"the locks would hold different NumPys: {told}; pin one in every requirements-*.in"
        )


def _write_wheel_hashes(folder: Path, framework: str) -> list[str]:
    """wheels.sha256: every CPU wheel that the sources offer of its package, by file name; those seen before stay."""
    lock = locks.parse(_lock(folder, framework, "cpu").read_text(), framework=framework, flavour="cpu", committed=True)
    path = folder / framework / "wheels.sha256"
    held = {name: digest for digest, name in (line.split() for line in path.read_text().splitlines())}
    release = f"{lock.framework_pin.name}-{lock.version}"
    kept = {name: digest for name, digest in held.items() if name.startswith((f"{release}+", f"{release}-"))}
    offered = _offered(lock)
    for name, digest in offered.items():
        if kept.get(name, digest) != digest:
            raise EnvironmentUnavailable(f"{name} has SHA-256 {digest} today and had {kept[name]}: it was replaced")
    wanted = dict(sorted((kept | offered).items()))
    path.write_text("".join(f"{digest}  {name}\n" for name, digest in wanted.items()))
    return [] if wanted == held else [f"{framework}: {path.name} changed"]


def _offered(lock: locks.Lock) -> dict[str, str]:
    """File name -> SHA-256 of every CPU wheel of the framework's own package at this version."""
    command = ["pip", "compile", "-", "--no-deps", "--only-binary=:all:", "--format=pylock.toml"]
    asked = f"{lock.framework_pin.name}=={lock.version}+cpu\n"
    found: dict[str, str] = {}
    for package in tomllib.loads(_compile(command, lock.framework, "cpu", asked)).get("packages", []):
        for wheel in package.get("wheels", []):
            name = wheel.get("name") or str(wheel.get("url") or wheel.get("path")).rpartition("/")[2]
            if digest := wheel.get("hashes", {}).get("sha256"):
                found[name.replace("%2B", "+")] = digest
    return found


def _hold_base(progress: Progress) -> list[str]:
    """Hold the official base's tag to its digest of today, where an engine and a registry answer."""
    try:
        with closing(engine()) as client:
            return base.renew(client, progress=progress)
    except EnvironmentUnavailable as reason:
        progress(f"the base's digest was not asked for: {reason}")
        return []


def _lock(folder: Path, framework: str, flavour: str) -> Path:
    return folder / framework / f"requirements-{flavour}.lock"


def main() -> int:
    """What the session is given; the exit code of an error is its own."""
    parser = argparse.ArgumentParser(prog="nox -s lock --", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("frameworks", metavar="FRAMEWORK", nargs="*", help="default: all")
    parser.add_argument("--flavour", choices=FLAVOURS, help="default: both")
    parser.add_argument("--upgrade", action="store_true", help="the newest of whatever requirements-*.in does not pin")
    parser.add_argument("--ca-bundle", type=Path, metavar="FILE", help="certificates (PEM) to trust while downloading")
    asked = parser.parse_args()
    if unknown := [name for name in asked.frameworks if name not in known.every()]:
        parser.error(f"no framework is called {unknown[0]}; choose {', '.join(known.every())}")
    try:
        with trusting(asked.ca_bundle):
            changed = relock(
                frameworks=asked.frameworks or tuple(known.every()), upgrade=asked.upgrade,
                flavours=(asked.flavour,) if asked.flavour else FLAVOURS,
                progress=lambda line: print(line, file=sys.stderr),
            )  # fmt: skip
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(changed or ["nothing changed"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
