"""Which commit this program is, in a checkout or installed from one, and where that came from; no path is ever told."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import bench

DISTRIBUTION = "tf-torch-bench"
_PACKAGE = Path(bench.__file__).resolve().parents[1]
_CODE = ("bench", "workloads", "images", "pyproject.toml")
# What is installed, by the name that it has in a checkout, where the two differ; see pyproject.toml.
_INSTALLED = {"images": "bench/_images"}


@dataclass(frozen=True)
class _Installed:
    """What pip wrote down beside this package: where it came from (PEP 610), and the files that it put there."""

    distribution: Distribution
    direct_url: dict[str, Any]

    @property
    def checkout(self) -> Path | None:
        """The checkout on this machine that it was installed from, if it was, and is still there."""
        url = urlsplit(str(self.direct_url.get("url")))
        folder = Path(unquote(url.path))
        return folder if "dir_info" in self.direct_url and url.scheme == "file" and _is_checkout(folder) else None


def checkout(folder: Path = _PACKAGE) -> dict[str, Any]:
    """The commit of the code that runs, and whether it differs from it; None for a wheel of no known commit.

    Installed from a checkout, it has that one's commit as long as the files are those of it, byte for byte; else it is
    `dirty`, whether they were changed before they were installed, or since, or the checkout has gone on.
    """
    if _is_checkout(folder):
        return _of_checkout(folder)
    installed = _installed(folder)
    if installed and (source := installed.checkout):
        return _of_files(folder, source)
    commit = (installed.direct_url.get("vcs_info") or {}).get("commit_id") if installed else None
    if installed is None or commit is None:
        return {"commit": None, "dirty": None}
    return {"commit": str(commit), "dirty": not _is_as_recorded(folder, installed.distribution)}


def remote(folder: Path = _PACKAGE) -> str | None:
    """Where that code came from, without passwords; None for a plain wheel or a folder of this machine."""
    installed = None if _is_checkout(folder) else _installed(folder)
    source = installed.checkout if installed else folder
    if source and _is_checkout(source):
        return _address(_git(source, "config", "--get", "remote.origin.url"))
    return _address(installed.direct_url.get("url")) if installed and "vcs_info" in installed.direct_url else None


def _is_checkout(folder: Path) -> bool:
    return (folder / ".git").exists()


def _of_checkout(folder: Path) -> dict[str, Any]:
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None}
    changes = _git(folder, "status", "--porcelain", "--", *(name for name in _CODE if (folder / name).exists()))
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _installed(folder: Path) -> _Installed | None:
    """What lies in `folder` as pip, uv or another installer put it there; None where none says whence."""
    for found in distributions(name=DISTRIBUTION, path=[str(folder)]):
        try:
            return _Installed(found, dict(json.loads(found.read_text("direct_url.json") or "null")))
        except (ValueError, TypeError):
            continue
    return None


def _of_files(folder: Path, source: Path) -> dict[str, Any]:
    """The checkout's commit, held against every installed file."""
    commit = _git(source, "rev-parse", "HEAD")
    tree = _git(source, "ls-tree", "-r", "-z", "HEAD", "--", *_roots())
    if commit is None or tree is None:
        return {"commit": None, "dirty": None}
    wanted = {}
    for entry in filter(None, tree.split("\0")):
        facts, _, name = entry.partition("\t")
        wanted[_as_installed(name)] = facts.split()[2]
    length = len(next(iter(wanted.values()), ""))
    found = {name: _blob(content, length) for name, content in _files(folder)}
    return {"commit": commit, "dirty": found != wanted}


def _roots() -> tuple[str, ...]:
    return tuple(name for name in _CODE if "." not in name)


def _as_installed(name: str) -> str:
    root, _, rest = name.partition("/")
    return f"{_INSTALLED.get(root, root)}/{rest}"


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The installed files of this program by their name in `folder`, with their content; no bytecode."""
    for root in _roots():
        for path in sorted((folder / root).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                yield path.relative_to(folder).as_posix(), path.read_bytes()


def _blob(content: bytes, length: int) -> str:
    """The name that git gives to a file's content: SHA-1, or SHA-256 in a repository of that kind."""
    kind = hashlib.sha256 if length == 64 else hashlib.sha1
    return kind(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _is_as_recorded(folder: Path, distribution: Distribution) -> bool:
    """Whether the files are those that the installer put there (RECORD: unpadded base64url of SHA-256)."""
    recorded = {
        file.as_posix(): file.hash.value
        for file in distribution.files or ()
        if file.hash and file.hash.mode == "sha256" and file.parts[0] in _roots()
    }
    found = {
        name: base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        for name, content in _files(folder)
    }
    return bool(found) and found == {name: value for name, value in recorded.items() if not name.endswith(".pyc")}


def _address(found: str | None) -> str | None:
    """An address that others reach too, without passwords."""
    is_address = found and re.match(r"(https?|ssh|git)://|[\w.-]+@[\w.-]+:", found)
    return re.sub(r"//[^/@\s]*@", "//", found) if found and is_address else None


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says of this very checkout, whatever GIT_DIR says, taking no lock."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False,
            env={**variables, "GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
