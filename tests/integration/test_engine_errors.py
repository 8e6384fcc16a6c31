"""What can be wrong with an engine, for real: one line that says what and what to do, the exit code, nothing left."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import pytest
from second_engine import SecondEngine, require

from bench.engine.client import address, engine, one_sentence, run_build
from bench.engine.words import deepest, explained, unreachable, went_away
from bench.errors import EnvironmentUnavailable
from bench.provision import base as base_image

if TYPE_CHECKING:
    from stand_in_registry import Registry

REPOSITORY = Path(__file__).resolve().parents[2]
NOBODY = 65534
# It may read everything, the interpreter too, wherever that lies; to talk to a socket takes the right to write.
READS = "+dac_read_search"
AS_NOBODY = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", f"--inh-caps={READS}",
    f"--ambient-caps={READS}", "--",
)  # fmt: skip
MATRIX = (
    "axes: {workload: [{name: stub, bytes: 65536}], framework: [stub, {name: stub, work: 2}]}\nbudget: {blocks: 1}\n"
)
# docker-py leaves the socket of a streamed answer to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

Bench = Callable[..., str]


@pytest.fixture
def bench() -> Iterator[Bench]:
    """`bench run` in a folder that every user may use: its one line of error, or that it has measured a block."""
    folder = Path(tempfile.mkdtemp(prefix="bench-errors-"))
    folder.chmod(0o777)
    (folder / "m.yaml").write_text(MATRIX)

    def run(
        *options: str, host: str | None = None, as_nobody: bool = False, launcher: str = "docker",
        measures: bool = False, cache: str | None = None,
    ) -> str:  # fmt: skip
        env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOME": str(folder)}
        env |= {"DOCKER_HOST": host} if host else {}
        env["BENCH_CACHE"] = cache or os.environ.get("BENCH_CACHE") or str(Path("~/.cache/bench").expanduser())
        command = ["run", "--matrix", str(folder / "m.yaml"), "--out", str(folder / "runs"), "--launcher", launcher]
        command += ["--budget", "1s"] if measures else []
        done = subprocess.run(
            [*(AS_NOBODY if as_nobody else ()), sys.executable, "-m", "bench", *command, *options],
            env=env, cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        lines = done.stderr.splitlines()
        if measures:  # one attempt, which a busy machine may spoil
            assert len([*folder.glob("runs/*/steps/*")]) == 1, done.stderr
        else:
            assert done.returncode == 3
            assert [line for line in lines if line.startswith("bench: ")] == lines[-1:], done.stderr
        print(done.stderr.strip())
        return done.stderr

    yield run
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def base() -> base_image.Base:
    """The user's."""
    with closing(engine()) as client:
        return base_image.choose(client, base=None, progress=print)


# Nothing answers


def test_a_socket_that_is_absent_and_one_where_nobody_listens_are_told_apart(bench: Bench, tmp_path: Path) -> None:
    said = bench(host="unix:///run/absent.sock")
    assert "there is no socket /run/absent.sock; install Docker or start it (sudo systemctl start docker)" in said
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{short}/left.sock")
        said = bench(host=f"unix://{short}/left.sock")
    assert "left.sock is there, but nobody listens on it; start it" in said


def test_no_engine_at_all_leaves_auto_to_the_local_launcher_which_says_so(bench: Bench) -> None:
    said = bench(host="unix:///run/absent.sock", launcher="auto", measures=True)
    assert "launcher: local, because no Docker engine answers at unix:///run/absent.sock: there is no socket" in said


@pytest.mark.docker
@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="only root can become nobody")
def test_a_user_without_the_right_to_the_socket_is_told_about_the_group(bench: Bench) -> None:
    with tempfile.TemporaryDirectory() as cache:
        os.chown(cache, NOBODY, NOBODY)
        said = bench(host=address(), as_nobody=True, cache=cache)
    assert "this user may not talk to the Docker engine at unix://" in said
    assert "sudo usermod -aG docker" in said


# Another machine's


class Tunnel(socketserver.ThreadingTCPServer):
    """The engine on a TCP port of this machine, as ssh -L makes one; what it says may be changed, length for length."""

    daemon_threads = True

    def __init__(self, *changes: tuple[bytes, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Pump)
        self.changes = [(re.compile(pattern), new) for pattern, new in changes]
        self.address = f"tcp://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Tunnel:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Pump(socketserver.BaseRequestHandler):
    server: Tunnel

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as far:
            far.connect(address().removeprefix("unix://"))
            thread = threading.Thread(target=self._pump, args=(self.request, far, ()), daemon=True)
            thread.start()
            self._pump(far, self.request, self.server.changes)
            thread.join(1)

    @staticmethod
    def _pump(one: socket.socket, other: socket.socket, changes: Sequence[tuple[re.Pattern[bytes], bytes]]) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(2**20):
                for pattern, new in changes:
                    for found in pattern.findall(data):
                        data = data.replace(found, new.ljust(len(found)))
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


def unix_engine() -> None:
    if not address().startswith("unix://"):
        pytest.skip(f"the engine is at {address()}, and this test needs a socket of the file system")


@pytest.mark.parametrize("host", ["ssh://someone@192.0.2.1", "tcp://192.0.2.1:2375"])
def test_an_engine_of_another_machine_is_refused_before_anything_is_asked_of_it(bench: Bench, host: str) -> None:
    said = bench(host=host)
    assert f"the Docker engine at {host} is on another machine: its folders, processes and counters are not" in said
    assert "or use --launcher local" in said


def test_auto_goes_local_where_the_engine_is_remote_and_says_so(bench: Bench) -> None:
    said = bench(host="ssh://someone@192.0.2.1", launcher="auto", measures=True)
    assert "launcher: local, because the Docker engine at ssh://someone@192.0.2.1 is on another machine" in said


@pytest.mark.docker
def test_an_engine_of_this_machine_serves_by_tcp_too(bench: Bench, base: base_image.Base) -> None:
    unix_engine()
    with Tunnel() as tunnel:
        bench("--base", base.tag, host=tunnel.address, measures=True)


@pytest.mark.docker
@pytest.mark.parametrize(
    ("pattern", "new", "words"),
    [
        (rb'"KernelVersion":"[^"]{4,}"', b'"KernelVersion":"9"', "is on another machine (kernel 9 there, "),
        (rb'"MemTotal":\d{6,}', b'"MemTotal":4096', "is on another machine (memory 4096 there, "),
        (rb'"OperatingSystem":"[^"]{14,}"', b'"OperatingSystem":"Docker Desktop"', "is Docker Desktop's, in a virtual"),
        (rb'"Pid":\d{2,}', b'"Pid":1', "starts its containers where this process cannot see them"),
    ],
    ids=["kernel", "memory", "desktop", "pid"],
)
def test_an_engine_behind_a_tunnel_gives_itself_away(
    bench: Bench, base: base_image.Base, pattern: bytes, new: bytes, words: str
) -> None:
    unix_engine()
    with Tunnel((pattern, new)) as tunnel:
        said = bench("--base", base.tag, host=tunnel.address)
    assert words in said
    with closing(engine()) as client:
        assert not client.api.containers(all=True, filters={"label": "bench.run", "name": "stub-"})


# The engine fails


@pytest.mark.docker
def test_a_digest_that_is_not_served_and_bytes_that_break_one_are_told_apart(bench: Bench, registry: Registry) -> None:
    digest = registry.release("first")
    name = registry.official.rpartition(":")[0]
    said = bench("--base", f"{name}@sha256:{'0' * 64}")
    assert "the registry has no image of that name; check its name, and its tag or digest" in said
    kind, content = registry.blobs[digest]
    registry.blobs[digest] = (kind, content.replace(b'"schemaVersion": 2', b'"schemaVersion":  2'))
    said = bench("--base", f"{name}@{digest}")
    assert f"the registry serves other bytes than the digest {digest[:19]} promises, and none of it was kept" in said


@pytest.fixture(scope="module")
def tight() -> Iterator[SecondEngine]:
    """An engine with a disk of 16 MB."""
    require()
    folder = Path(tempfile.mkdtemp(prefix="small-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], check=True)
    try:
        with SecondEngine(data=folder) as tight:
            yield tight
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@pytest.mark.docker
def test_a_full_disk_is_told_with_its_size_and_what_to_free(bench: Bench, tight: SecondEngine, tmp_path: Path) -> None:
    with (tmp_path / "rootfs.tar").open("wb") as file:
        file.truncate(2**20)
    (tight.data / "filler").write_bytes(b"x" * (11 * 2**20))
    dockerfile = tmp_path / "context"
    dockerfile.mkdir()
    (dockerfile / "Dockerfile").write_text("FROM scratch\nCOPY big /big\n")
    (dockerfile / "big").write_bytes(os.urandom(8 * 2**20))
    full = pytest.raises(EnvironmentUnavailable)
    with closing(tight.client()) as client, full as caught, one_sentence("building", client):
        run_build(client, what="a big image", path=str(dockerfile))
    print(caught.value)
    assert "the disk of the Docker engine is full (" in str(caught.value)
    assert re.search(rf"{tight.data}: \d+ MB free of 17\)", str(caught.value))
    assert "docker system df" in str(caught.value)
    assert "bench clean --images" in str(caught.value)


@pytest.mark.docker
def test_reasons_of_the_runtime_come_out_of_their_wrapping(base: base_image.Base) -> None:
    """Made to happen, one by one, in containers of the base."""

    def why(command: str = "true", **options: Any) -> str:
        with closing(engine()) as client:
            api = client.api
            container = None
            try:
                config = api.create_host_config(network_mode="none", **options)
                container = api.create_container(base.id, [command], host_config=config)["Id"]
                api.start(container)
            except docker.errors.APIError as error:
                print(explained(error, client))
                return explained(error, client)
            finally:
                if container:
                    api.remove_container(container, force=True)
        return "it started"

    assert "has no program /absent that could be started" in why("/absent")
    assert "has no program /etc/passwd that could be started" in why("/etc/passwd")
    assert "may use the processors" in why(cpuset_cpus="4095")
    assert "taskset -c" in why(cpuset_cpus="4095")
    assert "does not see the folder /absent of this machine" in why(
        mounts=[docker.types.Mount("/x", "/absent", type="bind")]
    )
    assert "runtime could not start the container (" in why(sysctls={"kernel.absent": "1"})
    assert "could not make the container's cgroup" in why(cpu_shares=2, cpuset_mems="0", cpu_rt_runtime=10**9)


@pytest.mark.docker
def test_an_image_that_is_gone_and_a_registry_that_is_away_say_so(bench: Bench) -> None:
    said = bench("--base", "127.0.0.1:9/absent:none")
    assert "the registry http://127.0.0.1:9 does not answer the Docker engine" in said or "https://127.0.0.1:9" in said
    with closing(engine()) as client, pytest.raises(docker.errors.ImageNotFound) as gone:
        client.api.create_container("bench-absent:none", ["true"])
    assert "the image bench-absent:none is not on the Docker engine (any more); bench images build" in explained(
        gone.value
    )


# An engine of another age: none can be had here, so one is played that says what they say


class Old(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


class _OldAnswer(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.rfile.readline()
        body = json.dumps({"ApiVersion": "1.18", "Version": "1.6.2"}).encode()
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))


def test_an_engine_that_is_too_old_is_told_with_what_to_upgrade(bench: Bench) -> None:
    with tempfile.TemporaryDirectory() as short, Old(f"{short}/old.sock", _OldAnswer) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        said = bench(host=f"unix://{short}/old.sock")
        server.shutdown()
    assert "share no version of its interface (the engine's is older than 1.24); upgrade the older of the two" in said


@pytest.mark.docker
def test_a_version_that_the_engine_does_not_speak_is_told_with_its_bounds() -> None:
    client = docker.DockerClient(base_url=address(), version="1.99")
    with closing(client), pytest.raises(docker.errors.APIError) as caught:
        client.info()
    assert "(asked for 1.99; Maximum supported API version is 1." in explained(caught.value)


# As engines and registries word it, where it cannot be made to happen here


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "manifest verification failed for digest sha256:" + "ab" * 32,
            "the registry serves other bytes than the digest sha256:abababababab promises",
        ),
        (
            "manifest for python@sha256:" + "cd" * 32 + " not found: manifest unknown: manifest unknown",
            "the registry has no image python@sha256:cdcdcdcdcdcd…",
        ),
        ("toomanyrequests: You have reached your pull rate limit", "gives this address no more today; docker login"),
        (
            "pull access denied for nobody/nothing, repository does not exist or may require 'docker login'",
            "the registry has no image nobody/nothing, or shows it to others only",
        ),
        (
            'Get "https://r.example/v2/": x509: certificate signed by unknown authority',
            "the registry's certificate is not trusted",
        ),
        ("fork/exec /usr/bin/runc: cannot allocate memory", "the machine has no memory left for another container"),
        (
            (
                "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container "
                "process: error during container init: error setting cgroup config for procHooks process: openat2 "
                "/sys/fs/cgroup/x/pids.max: no such file or directory: unknown"
            ),
            "(error setting cgroup config for procHooks process: openat2 /sys/fs/cgroup/x/pids.max: no such file or",
        ),
        ("exec /usr/bin/python3: exec format error", "is for another processor than this machine's"),
        ("something new", "something new"),
    ],
)
def test_what_engines_and_registries_say_has_its_remedy(said: str, told: str) -> None:
    assert told in explained(said)


def test_words_of_the_language_are_none_of_the_users_business() -> None:
    gone = [
        "('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))",
        "('Connection aborted.', FileNotFoundError(2, 'No such file or directory'))",
        "UnixHTTPConnectionPool(host='localhost', port=None): Read timed out. (read timeout=600)",
    ]
    for text in gone:
        assert not re.search("[A-Z][a-z]+(?:Error|Disconnected|Pool)", went_away(text))
    assert not re.search("Error", unreachable("unix:///run/x.sock", gone[1]))
    assert deepest("OCI runtime create failed: runc create failed: the reason: unknown") == "the reason"
