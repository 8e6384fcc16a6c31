"""Which engine is asked, and how: the one that was chosen, by a way that is not the world's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.engine.client import engine
from bench.errors import EnvironmentUnavailable
from bench.launch.docker import _own_engine


class Version(BaseHTTPRequestHandler):
    """As much of an engine as says which version of its interface it speaks."""

    def do_GET(self) -> None:
        """The same to every question."""
        content = json.dumps({"ApiVersion": "1.41"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing."""


@pytest.fixture
def answering() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Version) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


def test_a_proxy_and_a_companys_certificates_are_for_the_world_and_not_for_the_engine(
    answering: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", answering)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "absent.pem"))
    with closing(engine()) as client:
        assert client.api.api_version == "1.41"
        assert client.api.trust_env is False


@pytest.mark.parametrize("by", ["variable", "configuration"])
def test_a_context_that_does_not_exist_is_never_the_usual_engine(
    by: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if by == "variable":
        monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
    else:
        (tmp_path / "config.json").write_text(json.dumps({"currentContext": "elsewhere"}))
    with pytest.raises(EnvironmentUnavailable, match="the docker context elsewhere does not exist; docker context ls"):
        engine()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("garbage", "that is no address of one; write DOCKER_HOST like unix:///var/run/docker.sock"),
        ("tcp://127.0.0.1", "that is no address of one"),
        ("tcp://[::1", "that is no address of one"),
        ("tcp://.example.com:2375", "that is no address of one"),
        ("npipe://", "that is no address of one"),
        ("fd://", "that is no address of one"),
    ],
)
def test_an_address_of_no_engine_is_one_sentence(address: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    for reach in (engine, _own_engine):
        with pytest.raises(EnvironmentUnavailable) as caught:
            reach()
        assert words in str(caught.value)
        assert "systemctl" not in str(caught.value)


def test_certificates_that_are_absent_are_named_by_their_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:2376")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with pytest.raises(EnvironmentUnavailable, match="DOCKER_CERT_PATH names a folder"):
        engine()
