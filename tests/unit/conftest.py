"""A package index of this machine's own, and all that a wheelhouse is made from."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from small_wheels import digest, make_wheel

from bench import paths


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache, a find-links folder that is all pip knows, and a lock of torch 9.9.0 with NumPy."""
    folder, root = tmp_path / "links", tmp_path / "images"
    numpy = make_wheel(folder, "numpy", "1.0")
    (root / "pytorch").mkdir(parents=True)
    (root / "pytorch" / "requirements-cpu.lock").write_text(
        f"numpy==1.0 \\\n    --hash=sha256:{digest(numpy)}\n    # via test\n"
        f"torch==9.9.0+cpu \\\n    --hash=sha256:{'0' * 64}\n"
    )
    (root / "pytorch" / "wheels.sha256").write_text("")
    monkeypatch.setattr(paths, "images_root", lambda: root)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    (tmp_path / "nothing").mkdir()
    monkeypatch.setenv("BENCH_TORCH_INDEX", str(tmp_path / "nothing"))
    return folder


class Quiet(SimpleHTTPRequestHandler):
    """Says nothing of the requests it answers."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and its address on this machine as a package index."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
