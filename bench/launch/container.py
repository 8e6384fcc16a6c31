"""A worker's container: its attached stdin, stdout and stderr, and how it ended."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.errors import NotFound

from bench.engine import words
from bench.engine.client import address, engine
from bench.engine.sweep import force_away
from bench.engine.words import LOST, went_away
from bench.errors import EngineLost, EnvironmentUnavailable
from bench.machine.describe import read_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    import docker

    from bench.engine import podman
    from bench.launch import GpuRequest

_STDOUT = 1
_HEADER = struct.Struct(">BxxxI")


class Ends:
    """How a container ended, from the engine's events, which outlive it."""

    out_of_memory = "was killed for memory by the kernel, at its container's limit"

    def __init__(self, api: Any, container: str) -> None:
        """Before it starts."""
        self._api, self._container, self._began_s = api, container, int(time.time())

    def events(self) -> list[dict[str, Any]]:
        """What has happened to the container so far: `oom` and `die` alone."""
        wanted = {"container": self._container, "event": ["oom", "die"]}
        until = f"{time.time():.9f}"  # a whole second would leave out what happened in this one
        return list(self._api.events(since=self._began_s, until=until, filters=wanted, decode=True))


class DockerChannel:
    """A container and its attached stdin, stdout and stderr: frames of (stream, length, bytes) on one socket.

    The engine closes the container's stdin when this one attached client goes away, and the worker then ends.
    """

    scope = "cgroup"

    def __init__(
        self, client: docker.DockerClient, container: str, image: str, ends: Ends | podman.Ends,
        gpu: GpuRequest | None = None,
    ) -> None:  # fmt: skip
        self._client, self._container, self.image, self.gpu = client, container, image, gpu
        api = client.api
        attached = api.attach_socket(container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        self._keep, self._socket = attached, _raw(attached)
        self._buffer = bytearray()
        self._ends = ends
        try:
            api.start(container)
            self.pid = _pid(api, container)
        except BaseException:
            self._socket.close()
            attached.close()
            raise

    def refuse_foreign(self) -> None:
        """The surest sign of a remote engine: its process is none of ours. Raises EnvironmentUnavailable."""
        for _ in range(10):
            if self._container in (read_text(Path(f"/proc/{self.pid}/cgroup")) or ""):
                return
            if not self.pid or not _pid(self._client.api, self._container):
                return  # it has ended already: nothing is known
            time.sleep(0.1)
        raise words.elsewhere(address())

    def filenos(self) -> Sequence[int]:
        """The one socket."""
        return (self._socket.fileno(),)

    def send(self, data: bytes) -> None:
        """Raises OSError when the worker is gone."""
        self._socket.sendall(data)

    def receive(self, fileno: int) -> tuple[bytes, bytes] | None:
        """Whole frames so far, split into stdout and stderr."""
        try:
            chunk = self._socket.recv(2**20)
        except ConnectionError:
            chunk = b""
        if not chunk:
            return None
        self._buffer += chunk
        out, err = bytearray(), bytearray()
        while len(self._buffer) >= _HEADER.size:
            stream, size = _HEADER.unpack_from(self._buffer)
            if len(self._buffer) < _HEADER.size + size:
                break
            payload = self._buffer[_HEADER.size : _HEADER.size + size]
            (out if stream == _STDOUT else err).extend(payload)
            del self._buffer[: _HEADER.size + size]
        return bytes(out), bytes(err)

    def fate(self) -> tuple[str, str]:
        """From the engine's events, which outlive the container. Raises EngineLost where it can no longer say."""
        code, killed_for_memory = None, False
        try:
            for _ in range(50):
                for event in self._ends.events():
                    killed_for_memory |= event["Action"] == "oom"
                    if event["Action"] == "die":
                        code = int(event["Actor"]["Attributes"]["exitCode"])
                if code is not None:
                    break
                time.sleep(0.1)
            _still_serves()
        except (*LOST, EnvironmentUnavailable) as error:
            raise EngineLost(went_away(error)) from None
        if code is None:
            return "crashed", "closed its output and went on"
        if killed_for_memory:
            return "oom", self._ends.out_of_memory
        if code > 128:
            return "crashed", f"crashed with signal {code - 128}"
        return "crashed", f"ended with exit status {code}"

    def remove(self) -> None:
        """Force it away; an engine that is gone has nothing left to remove now (`sweep` does it later)."""
        with suppress(OSError):
            self._socket.close()
        self._keep.close()
        with suppress(*LOST):
            force_away(self._client.api, self._container)


def _pid(api: Any, container: str) -> int:
    """On the host; 0 for one that has ended, which the engine may have removed by now."""
    try:
        return int(api.inspect_container(container)["State"]["Pid"])
    except NotFound:
        return 0


def _raw(attached: Any) -> socket.socket:
    """docker-py wraps the socket differently over http and unix."""
    return attached if isinstance(attached, socket.socket) else attached._sock


def _still_serves() -> None:
    """An engine that is being stopped kills its workers: that is no failure of theirs, and it takes nobody new then."""
    engine(timeout_s=1).close()
