"""bench's own pip and uv, called for another interpreter than the running one, with the user's configuration."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import EnvironmentUnavailable

if TYPE_CHECKING:
    from bench.provision.locks import Target

# Settings of the user that would send an install elsewhere; indexes, certificates and proxies stay.
_DROPPED = (
    "PIP_REQUIRE_VIRTUALENV",
    "PIP_USER",
    "PIP_TARGET",
    "PIP_PREFIX",
    "PIP_ROOT",
    "PIP_REQUIRE_HASHES",
    "PIP_REPORT",
)
_SYSTEM_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# Ubuntu 22.04, the oldest system supported, has glibc 2.35.
_NEWEST_GLIBC_MINOR = 35


class PipFailed(Exception):  # noqa: N818 - carries the reason to whoever knows what was asked
    """pip or uv ended with an error; the text is its reason in one line."""


def pip(*arguments: str, timeout_s: float | None = None) -> str:
    """Run bench's own pip and give its standard output; raises PipFailed with pip's reason."""
    environment = {key: value for key, value in os.environ.items() if key not in _DROPPED}
    environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "NO_COLOR": "1"}
    return _run([sys.executable, "-m", "pip", *arguments], environment=environment, timeout_s=timeout_s)


def uv(*arguments: str, stdin: str = "", timeout_s: float | None = None) -> str:
    """Run uv, which never fetches a Python of its own, and give its standard output; raises PipFailed."""
    binary = uv_binary()
    if binary is None:
        raise PipFailed("uv is not installed")
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    environment |= {"UV_PYTHON_DOWNLOADS": "never", "UV_HTTP_RETRIES": "1", "NO_COLOR": "1"}
    if _SYSTEM_CERTIFICATES.exists():  # a private network's own authority is found where pip finds it
        environment.setdefault("UV_SYSTEM_CERTS", "1")
    return _run([str(binary), *arguments], environment=environment, stdin=stdin, timeout_s=timeout_s)


def uv_binary() -> Path | None:
    """Find uv beside this interpreter or on PATH."""
    try:
        from uv import find_uv_bin

        return Path(find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
        return Path(found) if found else None


def pip_indexes() -> list[str]:
    """The user's own indexes as pip knows them, as options of uv; an index in a folder of this machine is left out."""
    settings = _pip_settings()
    main = settings.get("index-url", [])[-1:]
    extra = settings.get("extra-index-url", [])
    far = [*(f"--default-index={url}" for url in main), *(f"--index={url}" for url in extra)]
    return [option for option in far if "=http" in option]


def pip_folders() -> list[str]:
    """The folders of wheels that the user's pip looks into (find-links), as options of uv."""
    return [f"--find-links={folder}" for folder in dict.fromkeys(_pip_settings().get("find-links", []))]


def _pip_settings() -> dict[str, list[str]]:
    """Pip's settings by name, from its files and variables, the strongest last."""
    found: dict[str, list[str]] = {}
    for line in pip("config", "list").splitlines():
        key, _, value = line.partition("=")
        found.setdefault(key.rpartition(".")[2], []).extend(value.strip("'\"").replace("\\n", " ").split())
    return found


def fitting(target: Target) -> list[str]:
    """Options of pip that select wheels for `target`, newest C library first."""
    minors = range(_NEWEST_GLIBC_MINOR, 4, -1)
    tags = [f"manylinux_2_{minor}_{target.machine}" for minor in minors]
    tags += [f"manylinux2014_{target.machine}", f"linux_{target.machine}"]
    return ["--only-binary=:all:", f"--python-version={target.python}", *(f"--platform={tag}" for tag in tags)]


def _run(
    command: Sequence[str], *, environment: dict[str, str], stdin: str = "", timeout_s: float | None = None
) -> str:
    try:
        done = subprocess.run(
            command, input=stdin, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise PipFailed(f"no answer within {timeout_s:.0f} s") from None
    except OSError as error:
        raise EnvironmentUnavailable(f"{command[0]} cannot be started: {error.strerror}; reinstall bench") from error
    if done.returncode:
        raise PipFailed(_reason(done.stderr))
    return done.stdout


def without_password(text: str) -> str:
    """With every `//user:password@` of an address taken out: what is said or recorded may be published."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def _reason(stderr: str) -> str:
    """The line that says why: pip's first ERROR with the line that it announces, or uv's deepest cause."""
    lines = [line.strip() for line in without_password(stderr).splitlines() if line.strip()]
    errors = [index for index, line in enumerate(lines) if re.match(r"(?i)error:", line)]
    if not errors:
        return lines[-1][:400] if lines else "no reason given"
    following = lines[errors[0] + 1 :]
    causes = [line for line in following if line.startswith("cause:")]
    detail = causes[-1:] or (following[:1] if lines[errors[0]].endswith(":") else [])
    text = re.sub(r"(?i)^error:\s*", "", " ".join([lines[errors[0]], *detail]))
    text = re.sub(r" \(from versions: (?!none)[^)]*\)", "", text)
    return text[:400]
