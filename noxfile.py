"""Sessions: `nox --list` tells them, each with its first line. Packages: pyproject.toml."""

from __future__ import annotations

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "tests", "docs"]
nox.options.default_venv_backend = "uv|virtualenv"

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The first tier, in minutes; `-- --tier second` for what CI runs after it, `-- tests/unit` for a part."""
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def nightly(session: nox.Session) -> None:
    """What takes hours: the nightly tier, every mutation, hundreds of drawn sizes, the statistics at full length."""
    session.install("-e", ".[test]")
    session.run("pytest", "--tier", "nightly", *session.posargs)
    session.notify("mutations", posargs=())
    session.notify("simulation", posargs=("--full",))
    session.notify("machine_time", posargs=())


@nox.session
def mutations(session: nox.Session) -> None:
    """Every way to break a twin on purpose, each seen by `bench parity` itself, and hundreds of drawn sizes."""
    session.install("-e", ".[test]")
    broken = ("tests/integration/test_framework_parity.py", "-k", "broken_tree or mutation")
    drawn = "tests/integration/test_certified_ranges.py"
    session.run("pytest", *broken, *session.posargs, env={"BENCH_ALL_MUTATIONS": "1"})
    session.run("pytest", drawn, *session.posargs, env={"BENCH_DRAWS": "20"})


@nox.session
def simulation(session: nox.Session) -> None:
    """Error rates of the statistics on times whose truth is known, the same anywhere; `-- --full`: 20,000 runs."""
    session.install("-e", ".[test]")
    session.run("python", "tests/simulation.py", *session.posargs)


@nox.session
def machine_time(session: nox.Session) -> None:
    """The case for lockstep, measured: machine time to the same interval, by three designs; an hour."""
    session.install("-e", ".[test]")
    session.run("python", "tests/machine_time.py", *(session.posargs or [session.create_tmp()]))


@nox.session
def lock(session: nox.Session) -> None:
    """The locks of images/ from requirements-*.in; `-- FRAMEWORK --flavour cpu --upgrade` for what may be newer."""
    session.install("-e", ".")
    session.run("python", "images/relock.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    session.install("-e", ".[lint]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict."""
    session.install("-e", ".[types,test]", "nox")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Write the command line's help into docs/cli.md, and check every link and command of the documentation."""
    session.install("-e", ".[test]")
    session.run("python", "docs/generate.py")
    session.run("pytest", "tests/unit/test_docs.py")


@nox.session
def bench(session: nox.Session) -> None:
    """The main job, quick: TensorFlow against PyTorch on this machine."""
    session.install(".")
    session.run("bench", "run", "--matrix", *(session.posargs or ["quick"]))


@nox.session
def gpu(session: nox.Session) -> None:
    """On an NVIDIA GPU: images, the matrix gpu, reports, and the path of an archive with all that they rest on."""
    session.install(".")
    session.run("python", "tests/gpu_evidence.py", *session.posargs)


@nox.session
def microbench(session: nox.Session) -> None:
    """What the harness itself costs; `nox -s microbench -- -k store` for a part."""
    session.install("-e", ".[test]")
    which = ("tests/microbench", "--override-ini=python_files=bench_*.py")
    session.run("pytest", *which, "--benchmark-columns=min,median,rounds", *session.posargs)


@nox.session
def crosscheck(session: nox.Session) -> None:
    """One step under the harness and three other tools: within 2 %, or why not; `-- --clock cpu` on a busy machine."""
    session.install(".")
    tools = session.create_tmp()  # beside the frameworks' own environments, which stay as they are
    session.install("--upgrade", f"--target={tools}", *PROJECT["project"]["optional-dependencies"]["crosscheck"])
    session.run("python", "tests/crosscheck/driver.py", f"--tools={tools}", *session.posargs)
