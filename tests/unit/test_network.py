"""A company's network: its own certificates, a private index with a password, and proxies."""

from __future__ import annotations

import base64
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from absent import absent
from small_wheels import make_wheel

from bench.errors import InputError
from bench.provision import network
from bench.provision import pip as pip_client
from bench.provision.pip import PipFailed, pip, pip_folders, pip_indexes

pytestmark = pytest.mark.second

PASSWORD = "sesame"


class Private(SimpleHTTPRequestHandler):
    """A package index that asks who is there."""

    def do_GET(self) -> None:
        """Nothing without the password."""
        wanted = "Basic " + base64.b64encode(f"team:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") == wanted:
            super().do_GET()
            return
        self.send_response(HTTPStatus.UNAUTHORIZED)
        self.send_header("WWW-Authenticate", "Basic")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing."""


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate that nobody knows, for this machine, and its key."""
    if shutil.which("openssl") is None:
        absent("openssl, which makes the certificate, is not installed")
    certificate, key = tmp_path / "ca.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=a company's own", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key


@pytest.fixture
def index(tmp_path: Path, authority: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its address with the password, over TLS; all that pip is configured with."""
    folder = tmp_path / "index"
    wheel = make_wheel(folder / "ours", "ours", "1.0")
    (folder / "ours" / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Private, directory=str(folder)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that does not trust it hangs up
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name in ("PIP_CERT", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    address = f"https://team:{PASSWORD}@127.0.0.1:{server.server_port}"
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {address}\nretries = 0\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    yield address
    server.shutdown()
    thread.join()
    server.server_close()


def download(into: Path) -> list[str]:
    pip("download", "--quiet", "--no-deps", "--no-cache-dir", f"--dest={into}", "ours==1.0")
    return [path.name for path in into.iterdir()]


def test_a_private_index_is_trusted_with_its_own_authority_and_not_without(
    index: str, authority: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(PipFailed) as refused:
        download(tmp_path / "without")
    assert PASSWORD not in str(refused.value)
    with network.trusting(authority[0]):
        assert download(tmp_path / "with") == ["ours-1.0-py3-none-any.whl"]
        assert network.ca_bundle() == authority[0].read_bytes()
    assert network.ca_bundle() == b""
    with pytest.raises(PipFailed):
        download(tmp_path / "after")


@pytest.mark.parametrize("said", ["ERROR: no wheel at {}", "no answer from {}", "error: failed\n  cause: {} refused"])
def test_no_password_of_an_index_is_ever_told(said: str) -> None:
    told = pip_client._reason(said.format("https://alice:s3cret@pkgs.example/whl"))
    assert "https://pkgs.example/whl" in told
    assert "s3cret" not in told


def test_uv_is_handed_the_index_that_pip_has_and_no_folder_of_this_machine(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://127.0.0.1:9/simple file:///somewhere/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "/first /second")
    assert pip_indexes() == [f"--default-index={index}", "--index=https://127.0.0.1:9/simple"]
    assert pip_folders() == ["--find-links=/first", "--find-links=/second"]


def test_a_bundle_in_a_home_of_nobody_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CA_BUNDLE", "~nobody-of-that-name/ca.pem")
    sentence = r"BENCH_CA_BUNDLE ~nobody-of-that-name/ca\.pem: there is no such folder; name a file"
    with pytest.raises(InputError, match=sentence), network.trusting(None):
        pytest.fail("nothing may be downloaded")


@pytest.mark.parametrize("text", [None, "no certificate\n"])
def test_a_bundle_that_holds_no_certificate_is_bad_input(tmp_path: Path, text: str | None) -> None:
    bundle = tmp_path / "ca.pem"
    if text is not None:
        bundle.write_text(text)
    sentence = r"--ca-bundle .*ca\.pem: .*; name a file of certificates"
    with pytest.raises(InputError, match=sentence), network.trusting(bundle):
        pytest.fail("nothing may be downloaded")


def test_a_proxy_reaches_a_build_in_either_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "localhost")
    assert network.proxies() == {
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "NO_PROXY": "localhost",
        "no_proxy": "localhost",
    }
