"""A hostile worker: what it tries from inside its container, and what happens. pytest -s or -rP shows the table."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bench.engine.words import seccomp_note
from bench.launch.docker import PIDS, SHARED_MEMORY_BYTES, DockerChannel, DockerLauncher
from bench.matrix.need import Need
from workloads.contract import Cell, Named

# docker-py leaves the socket of a streamed answer to the garbage collector.
pytestmark = [
    pytest.mark.docker,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.first,
]
CPU = max(os.sched_getaffinity(0))
CELL = Cell(workload=Named("stub"), framework=Named("stub"), device="cpu")
DENIED = {"EPERM", "EACCES"}
NOWHERE = {"ENETUNREACH", "EADDRNOTAVAIL", "ENODEV"}
READ_ONLY = {"EROFS", "EACCES", "EPERM"}
ABSENT = {"ENOENT", "ESRCH", "no"}
# What is tried, and every outcome that keeps the host safe; "done" stands where a worker needs it.
WANTED: dict[str, set[str]] = {
    "write /": READ_ONLY,
    "write /usr/lib": READ_ONLY,
    "write /etc/passwd": READ_ONLY,
    "write /proc/sys/kernel/core_pattern": READ_ONLY,
    "write /proc/sysrq-trigger": READ_ONLY | ABSENT,
    "write /sys/fs/cgroup": READ_ONLY,
    "write the worker's code": READ_ONLY,
    "write the data": READ_ONLY,
    "write the scratch": {"done"},
    "write the compile cache": {"done"},
    "write past the shared memory": {"ENOSPC"},
    "connect to the internet": NOWHERE,
    "connect to the host's bridge": NOWHERE,
    "send a datagram": NOWHERE,
    "resolve a name": {"gaierror"},
    "open a raw socket": DENIED,
    "an interface besides lo": ABSENT,
    "see the harness": ABSENT,
    "signal the harness": ABSENT,
    "trace the harness": ABSENT | DENIED,
    "processes in sight": {"1 worker"},
    "become root": DENIED,
    "become root by a set-uid program": ABSENT,
    "take all capabilities": DENIED,
    "mount": DENIED,
    "chroot": DENIED,
    "unshare a user namespace": DENIED,
    "keyctl": DENIED | {"ENOSYS"},
    "bpf": DENIED | {"ENOSYS"},
    "load a kernel module": DENIED | {"ENOSYS"},
    "reboot": DENIED,
    "set the clock": DENIED,
    "make a device": READ_ONLY | DENIED,
    "open the disk": ABSENT | DENIED,
    "reach the Docker socket": ABSENT,
    "raise the limit of core dumps": DENIED | {"ValueError"},
}
# Runs inside, as the worker's user. Numbers of system calls are those of x86-64 and of arm64.
# Were a door open, nothing would happen to the host: what is not the container's own is opened, never written.
PROBE = r"""
import ctypes, errno, json, os, platform, resource, signal, socket, subprocess, sys, time
harness = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
arm = platform.machine() == "aarch64"
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
def call(x86, arm64, *arguments):
    checked(libc.syscall(ctypes.c_long(arm64 if arm else x86), *[ctypes.c_long(one) for one in arguments]))
def attempt(action):
    try:
        return action() or "done"
    except socket.gaierror:
        return "gaierror"
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__)
    except ValueError:
        return "ValueError"
def write(path, size=1):
    with open(path, "wb", buffering=0) as file:
        for _ in range(0, size, 2**20):
            file.write(b"x" * min(size, 2**20))
def opens(path):
    os.close(os.open(path, os.O_WRONLY))
def clock():
    time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME))
def connect(host):
    socket.create_connection((host, 80), timeout=3).close()
def datagram():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53))
def root_by_program():
    code = "grep -h '^Uid' /proc/self/status"
    done = subprocess.run(["su", "-s", "/bin/sh", "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return "no" if done.returncode else "uid " + done.stdout.split()[2]
def capabilities():
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[2**32 - 1] * 6)
    checked(libc.capset(header, data))
def others():
    mine = {os.getpid()}
    return " and ".join(f"{pid} {'worker' if b'workloads.worker' in open(f'/proc/{pid}/cmdline', 'rb').read() else '?'}"
                        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid not in mine)
def exists(path):
    return "done" if os.path.exists(path) else "no"
tried = {
    "write /": lambda: write("/probe"),
    "write /usr/lib": lambda: write("/usr/lib/probe"),
    "write /etc/passwd": lambda: opens("/etc/passwd"),
    "write /proc/sys/kernel/core_pattern": lambda: opens("/proc/sys/kernel/core_pattern"),
    "write /proc/sysrq-trigger": lambda: opens("/proc/sysrq-trigger"),
    "write /sys/fs/cgroup": lambda: write("/sys/fs/cgroup/probe"),
    "write the worker's code": lambda: write("/bench/worker/workloads/probe"),
    "write the data": lambda: write("/bench/data/probe"),
    "write the scratch": lambda: write("/tmp/probe"),
    "write the compile cache": lambda: write("/bench/cache/probe"),
    "write past the shared memory": lambda: write("/dev/shm/probe", int(sys.argv[2]) + 2**20),
    "connect to the internet": lambda: connect("192.0.2.1"),
    "connect to the host's bridge": lambda: connect("172.17.0.1"),
    "send a datagram": datagram,
    "resolve a name": lambda: socket.getaddrinfo("example.org", 80),
    "open a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close(),
    "an interface besides lo": lambda: " ".join(sorted(set(os.listdir("/sys/class/net")) - {"lo"})) or "no",
    "see the harness": lambda: os.stat(f"/proc/{harness}") and "done",
    "signal the harness": lambda: os.kill(harness, 0),
    "trace the harness": lambda: checked(libc.ptrace(16, harness, 0, 0)),
    "processes in sight": others,
    "become root": lambda: os.setuid(0),
    "become root by a set-uid program": root_by_program,
    "take all capabilities": capabilities,
    "mount": lambda: checked(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)),
    "chroot": lambda: os.chroot("/tmp"),
    "unshare a user namespace": lambda: checked(libc.unshare(0x10000000)),
    "keyctl": lambda: call(250, 219, 0, -3, 1),
    "bpf": lambda: call(321, 280, 0, 0, 0),
    "load a kernel module": lambda: call(175, 105, 0, 0, 0),
    "reboot": lambda: checked(libc.reboot(0x89ABCDEF)),
    "set the clock": clock,
    "make a device": lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(8, 0)),
    "open the disk": lambda: opens("/dev/sda"),
    "reach the Docker socket": lambda: os.stat("/var/run/docker.sock") and "done",
    "raise the limit of core dumps": lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)),
}
wanted = sys.argv[3:] or list(tried)
print(json.dumps({what: str(attempt(tried[what])) for what in wanted}))
for path in ("/dev/shm/probe", "/tmp/probe", "/bench/cache/probe"):
    os.path.exists(path) and os.unlink(path)
"""
HARMLESS = (
    "write /", "write /usr/lib", "write /etc/passwd", "write past the shared memory", "open a raw socket",
    "see the harness", "become root", "keyctl", "make a device", "unshare a user namespace",
)  # fmt: skip
BOMB = """
import errno, os, signal
children = 0
wake, hold = os.pipe()
try:
    while True:
        if os.fork() == 0:
            os.close(hold)
            os.read(wake, 1)
            os._exit(0)
        children += 1
except OSError as error:
    print(errno.errorcode[error.errno], children)
"""
HOG = "held = []\nwhile True: held.append(bytearray(2**24))"


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerLauncher]:
    folder = tmp_path_factory.mktemp("shared")
    for path in (folder, folder / "cache", folder / "data"):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
    launcher = DockerLauncher(run_id=f"hostile-{os.getpid()}", cache=folder / "cache", data=folder / "data")
    launcher.provide([Need.of(CELL)], print)
    yield launcher
    launcher.close()
    gc.collect()


@pytest.fixture
def worker(launcher: DockerLauncher) -> Iterator[DockerChannel]:
    channel = launcher.start(cell=CELL, cpus=frozenset({CPU}), padding=0)
    yield channel
    channel.remove()


def inside(launcher: DockerLauncher, worker: DockerChannel, code: str, *arguments: object) -> tuple[str, int]:
    """What a program in the worker's container prints, and its exit status."""
    api = launcher.client.api
    made = api.exec_create(worker._container, ["python3", "-c", code, *map(str, arguments)])["Id"]
    printed = api.exec_start(made).decode()
    return printed, int(api.exec_inspect(made)["ExitCode"])


def test_everything_that_a_worker_may_not_do_fails_when_it_tries(
    launcher: DockerLauncher, worker: DockerChannel
) -> None:
    printed, status = inside(launcher, worker, PROBE, os.getpid(), SHARED_MEMORY_BYTES)
    assert status == 0, printed
    happened: dict[str, str] = json.loads(printed)
    print(*(f"{what:40} {how}" for what, how in happened.items()), sep="\n")
    assert happened.keys() == WANTED.keys()
    assert {what: how for what, how in happened.items() if how not in WANTED[what]} == {}


def test_the_same_attempts_succeed_where_nothing_forbids_them(launcher: DockerLauncher) -> None:
    """The control: a probe that cannot succeed would prove nothing. In its own container, and harmless there."""
    image = launcher.images[Need.of(CELL)]
    printed = launcher.client.containers.run(
        image, ["python3", "-c", PROBE, str(os.getpid()), str(SHARED_MEMORY_BYTES), *HARMLESS], entrypoint=[],
        remove=True, network_mode="none", security_opt=["seccomp=unconfined"], pid_mode="host", user="0",
        shm_size=2 * SHARED_MEMORY_BYTES,
    )  # fmt: skip
    happened: dict[str, str] = json.loads(printed)
    print(*(f"{what:40} {how}" for what, how in happened.items()), sep="\n")
    assert happened == dict.fromkeys(HARMLESS, "done")


def test_a_fork_bomb_ends_at_the_limit_and_the_host_goes_on(launcher: DockerLauncher, worker: DockerChannel) -> None:
    printed, _ = inside(launcher, worker, BOMB)
    error, children = printed.split()
    print(f"fork bomb: {children} children, then {error}")
    assert error == "EAGAIN"
    assert 0 < int(children) < PIDS
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def test_memory_ends_at_the_limit_and_the_hog_alone_is_killed(launcher: DockerLauncher, worker: DockerChannel) -> None:
    limit = 192 * 2**20  # the real one is most of the machine's memory
    launcher.client.api.update_container(worker._container, mem_limit=limit, memswap_limit=limit)
    began = time.monotonic()
    _, status = inside(launcher, worker, HOG)
    print(f"memory hog: exit status {status} after {time.monotonic() - began:.1f} s")
    assert status == 137


def test_the_engine_was_told_so_and_filters_system_calls(launcher: DockerLauncher, worker: DockerChannel) -> None:
    told = launcher.client.api.inspect_container(worker._container)
    host: dict[str, Any] = told["HostConfig"]
    assert host["ShmSize"] == SHARED_MEMORY_BYTES
    assert host["IpcMode"] == "private"
    assert (host["PidMode"], host["UTSMode"], host["UsernsMode"]) == ("", "", "")
    assert host["PidsLimit"] == PIDS
    assert not host["Devices"]
    assert {"Name": "core", "Hard": 0, "Soft": 0} in host["Ulimits"]
    assert not [option for option in host["SecurityOpt"] if "unconfined" in option]
    assert {mount["Destination"] for mount in told["Mounts"]} == {"/bench/worker", "/bench/data", "/bench/cache"}
    status = Path(f"/proc/{worker.pid}/status")
    with suppress(FileNotFoundError):
        filtered = dict(line.split(":", 1) for line in status.read_text().splitlines())
        assert filtered["Seccomp"].strip() == "2", "a filter holds"


def test_an_engine_without_its_filter_is_noted() -> None:
    """As engines say it: 20.10, 23 and later, one told otherwise, and one built without."""
    assert seccomp_note({"SecurityOptions": ["name=seccomp,profile=default"]}) is None
    assert seccomp_note({"SecurityOptions": ["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"]}) is None
    assert "profile of its owner (unconfined)" in str(
        seccomp_note({"SecurityOptions": ["name=seccomp,profile=unconfined"]})
    )
    assert "filters no system calls" in str(seccomp_note({"SecurityOptions": ["name=apparmor"]}))
