"""A package index of this machine's own, all that a wheelhouse is made from, and synthetic runs with their reports."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from reported import INFER, LINEAR, TRAIN
from small_wheels import digest, make_wheel
from synthetic_run import COMPARISONS, Writer, whole_run

from bench import frameworks, paths
from bench.estimate import summary
from bench.matrix.matrix import Matrix, load

if TYPE_CHECKING:
    from bench.store import StoredRun


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
    shutil.copy(paths.images_root() / "pytorch" / frameworks.FILE, root / "pytorch")
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


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    return whole_run(tmp_path_factory.mktemp("runs") / "synthetic")


@pytest.fixture(scope="module")
def document(stored: StoredRun) -> dict[str, Any]:
    return summary.summarise(stored)


@pytest.fixture(scope="module")
def invalid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    writer = Writer(tmp_path_factory.mktemp("runs") / "invalid")
    for name in COMPARISONS:
        writer.measured(name, 8)
    writer.certified(LINEAR).certified(INFER)
    writer.certified(
        TRAIN, status="failed", reason="weights of step 3 differ by 4.1e-2, limit 1e-10", max_rel_error=0.041
    )
    return summary.summarise(writer.read())


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Matrix]:
    monkeypatch.chdir(tmp_path)

    def write_and_load(text: str | bytes, **options: bool) -> Matrix:
        Path("m.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return load("m.yaml", **options)

    return write_and_load
