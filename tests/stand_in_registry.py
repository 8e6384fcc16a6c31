"""An image registry on this machine, for what is said to real ones that cannot be reached."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Registry(ThreadingHTTPServer):
    """An image registry on this machine, with one repository whose tag can be moved."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.blobs: dict[str, tuple[str, bytes]] = {}
        self.tagged = ""
        self.official = f"127.0.0.1:{self.server_port}/python:3.11-slim-bookworm"

    def put(self, content: bytes, kind: str = "application/octet-stream") -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs[digest] = (kind, content)
        return {"mediaType": kind, "size": len(content), "digest": digest}

    def release(self, text: str) -> str:
        """Move the tag to a new image that holds one file with `text`; gives its digest."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            entry = tarfile.TarInfo("release")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        layer = self.put(buffer.getvalue(), "application/vnd.docker.image.rootfs.diff.tar")
        machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
        rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
        config = json.dumps({"architecture": machine, "os": "linux", "config": {}, "rootfs": rootfs}).encode()
        described = self.put(config, "application/vnd.docker.container.image.v1+json")
        manifest = {"schemaVersion": 2, "mediaType": kind, "config": described, "layers": [layer]}
        self.tagged = str(self.put(json.dumps(manifest).encode(), kind)["digest"])
        return self.tagged


class _Answer(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        digest = name if name.startswith("sha256:") else self.server.tagged
        kind, content = self.server.blobs.get(digest, ("text/plain", b"")) if name else ("application/json", b"{}")
        self.send_response(200 if content else 404)
        content = content or b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Docker-Content-Digest", digest)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass
