"""A Podman of a test's own, which answers as Docker: own folders, socket and locks, so that the user's stays as it is.

Needs root and podman.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

import docker

START_LIMIT_S = 30
# Without leave to raise limits, as in a container, Podman's own defaults are above what its service may give.
CONFIGURATION = """\
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
"""


class PodmanEngine:
    """Use as a context manager; `address` is what DOCKER_HOST takes."""

    def __init__(self) -> None:
        # A socket's path has at most 107 characters, and pytest's own folders are long.
        self.folder = Path(tempfile.mkdtemp(prefix="podman-"))
        self.address = f"unix://{self.folder}/podman.sock"

    def __enter__(self) -> PodmanEngine:
        processes = min(resource.getrlimit(resource.RLIMIT_NPROC)[1], int(Path("/proc/sys/kernel/pid_max").read_text()))
        files = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 2**20)
        settings = self.folder / "containers.conf"
        settings.write_text(CONFIGURATION.format(files=files, processes=processes))
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "podman", f"--root={self.folder}/root", f"--runroot={self.folder}/run",
                    f"--tmpdir={self.folder}/tmp", "system", "service", "--time=0", self.address,
                ],
                env={**os.environ, "CONTAINERS_CONF": str(settings)}, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
                cwd=self.folder,  # conmon leaves a file named oom there
            )  # fmt: skip
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(docker.errors.DockerException), closing(self.client()) as client:
                client.ping()
                return self
            time.sleep(0.1)
        said = (self.folder / "log").read_text(errors="replace").splitlines()[-5:]
        self.__exit__()
        raise RuntimeError(f"podman did not start: {said}")

    def __exit__(self, *_: object) -> None:
        """Stop it, with every container and mount that is left."""
        with suppress(docker.errors.DockerException), closing(self.client()) as client:
            for container in client.api.containers(all=True):
                client.api.remove_container(container["Id"], force=True)
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30)
        for process in Path("/proc").glob("[0-9]*"):  # a conmon names its folders
            with suppress(OSError, ValueError):
                if f"{self.folder}/" in (process / "cmdline").read_text() and int(process.name) != os.getpid():
                    os.kill(int(process.name), signal.SIGKILL)
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in sorted((one for one in mounts if one.startswith(f"{self.folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def client(self) -> docker.DockerClient:
        """A client of this engine; the caller closes it."""
        return docker.DockerClient(base_url=self.address, timeout=120)

    def take(self, image: str) -> None:
        """Copy an image from the user's engine, as docker save and docker load do; its id stays the same."""
        with closing(docker.from_env()) as first, closing(self.client()) as own:
            own.api.load_image(first.images.get(image).save(named=True))
