"""A Docker engine of a test's own: killed, starved, given a hook or started anew while the user's goes on.

It has its own network namespace, as it would delete the first one's bridge otherwise, and its own folders and socket.
Containers there have no network, which workers do not use. Needs root, dockerd and unshare.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import docker
from absent import absent

START_LIMIT_S = 60


class SecondEngine:
    """Use as a context manager; `address` is what DOCKER_HOST takes.

    path     folders before PATH: an executable nvidia-container-runtime-hook there is what serves GPU requests
    options  further ones of dockerd
    data     its data root; None for a folder that ends with it
    """

    def __init__(self, *, path: Sequence[Path] = (), options: Sequence[str] = (), data: Path | None = None) -> None:
        require()
        # A socket's path has at most 107 characters, and pytest's own folders are long.
        self.folder = Path(tempfile.mkdtemp(prefix="engine-"))
        self.data = data or self.folder / "data"
        self.address = f"unix://{self.folder}/docker.sock"
        self._path, self._options = path, options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> SecondEngine:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, after a stop or kill too, and wait until it answers."""
        (self.folder / "pid").unlink(missing_ok=True)
        search = os.pathsep.join([*map(str, self._path), os.environ["PATH"]])
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "unshare", "--net", "dockerd", f"--data-root={self.data}", f"--exec-root={self.folder}/exec",
                    f"--pidfile={self.folder}/pid", f"--host={self.address}", "--bridge=none", "--iptables=false",
                    *self._options,
                ],
                env={**os.environ, "PATH": search}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(docker.errors.DockerException), closing(self.client()) as client:
                client.ping()
                return
            time.sleep(0.1)
        said = (self.folder / "log").read_text(errors="replace").splitlines()[-5:]
        raise RuntimeError(f"the second engine did not start: {said}")

    def client(self) -> docker.DockerClient:
        """A client of this engine; the caller closes it."""
        return docker.DockerClient(base_url=self.address, timeout=120)

    def kill(self) -> None:
        """As a crash or an impatient administrator does: containers and shims stay where they are."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """As `systemctl stop` does: it ends its containers, then itself; started anew, it knows its images."""
        assert self._process
        self._process.terminate()
        self._process.wait()

    def stop(self) -> None:
        """As `systemctl stop` does, with everything that it left."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=30)
        self._end_the_rest()

    def take(self, image: str, tag: str) -> None:
        """Copy an image from the user's engine, as docker save and docker load do."""
        with closing(docker.from_env()) as first, closing(self.client()) as own:
            (copied,) = own.images.load(b"".join(first.images.get(image).save()))
            copied.tag(tag)

    def _end_the_rest(self) -> None:
        """containerd, shims and mounts of a killed engine: whatever names this folder."""
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError):
                if str(self.folder) in (process / "cmdline").read_text() and int(process.name) != os.getpid():
                    os.kill(int(process.name), signal.SIGKILL)
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in sorted((one for one in mounts if one.startswith(str(self.folder))), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)


def require() -> None:
    """Skip a test, or fail it in CI, where no second engine can be started."""
    if os.geteuid() != 0:
        absent("a second Docker engine takes root")
    if missing := [program for program in ("dockerd", "unshare") if not shutil.which(program)]:
        absent(f"a second Docker engine takes {' and '.join(missing)}")
