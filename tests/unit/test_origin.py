"""Which commit this program is: in a checkout, and what pip wrote down where it was installed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.estimate import names
from bench.machine import checkout as origin


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/module.py").write_text("x = 1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path


def test_a_checkout_names_its_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nonexistent")  # a hook sets it for its own repository
    expected = {"commit": origin._git(checkout, "rev-parse", "HEAD"), "dirty": False}
    assert expected["commit"]
    (checkout / "runs").mkdir()
    (checkout / "runs/run.json").write_text("a run is not code")
    assert origin.checkout(checkout) == expected


@pytest.mark.parametrize("file", ["module.py", "added.py"])
def test_a_changed_or_added_file_of_code_makes_it_dirty(checkout: Path, file: str) -> None:
    (checkout / "bench" / file).write_text("x = 2\n")
    assert origin.checkout(checkout)["dirty"] is True


def test_a_wheel_inside_somebody_elses_checkout_has_no_commit(checkout: Path) -> None:
    site = checkout / "venv/site-packages"
    site.mkdir(parents=True)
    assert origin.checkout(site) == {"commit": None, "dirty": None}


def installed(site: Path, direct_url: dict[str, Any] | str) -> Path:
    """What an installer leaves beside a package, with these words about where it came from."""
    folder = site / "tf_torch_bench-0.1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.4\nName: tf-torch-bench\nVersion: 0.1.0\n")
    (folder / "direct_url.json").write_text(direct_url if isinstance(direct_url, str) else json.dumps(direct_url))
    return site


@pytest.mark.parametrize(
    "direct_url",
    [
        {"url": "file:///nowhere/at/all", "dir_info": {}},
        {"url": "file:///tmp/a.whl", "archive_info": {}},
        {"url": "https://example.org/a.whl", "archive_info": {}},
        "not JSON",
        "null",
        "[]",
    ],
)
def test_what_came_from_nowhere_that_can_be_looked_at_has_no_commit(tmp_path: Path, direct_url: Any) -> None:
    site = installed(tmp_path / "site", direct_url)
    assert origin.checkout(site) == {"commit": None, "dirty": None}
    assert origin.remote(site) is None


def test_what_was_installed_from_a_folder_that_is_no_checkout_has_no_commit(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    site = installed(tmp_path / "site", {"url": (tmp_path / "plain").as_uri(), "dir_info": {}})
    assert origin.checkout(site) == {"commit": None, "dirty": None}


def test_a_remote_is_told_without_its_password(checkout: Path) -> None:
    assert origin.remote(checkout) is None
    git(checkout, "remote", "add", "origin", "https://me:secret@example.org/bench.git")
    site = installed(checkout / "site", {"url": checkout.as_uri(), "dir_info": {}})
    assert {origin.remote(checkout), origin.remote(site)} == {"https://example.org/bench.git"}
    git(checkout, "remote", "set-url", "origin", str(checkout))
    assert origin.remote(checkout) is None


@pytest.mark.parametrize(
    ("commit", "environment", "said"),
    [
        ("0123456789abcdef", {"bench": "0.1.0", "dirty": False}, "commit 0123456789ab"),
        ("0123456789abcdef", {"bench": "0.1.0", "dirty": True}, "commit 0123456789ab with changes"),
        (None, {"bench": "0.1.0", "dirty": None}, "version 0.1.0"),
        (None, {}, "commit unknown"),
    ],
)
def test_a_report_names_the_commit_or_the_version(commit: str | None, environment: dict[str, Any], said: str) -> None:
    assert names.code(commit, environment) == said
