"""What the Docker engine says, in a person's words and with the remedy; and whether it is this machine's engine.

GPU requests have their own: a table here is read from the top, and what is not in it is told as the engine told it.
"""

from __future__ import annotations

import re
import shutil
import socket
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests.exceptions
import urllib3.exceptions
from docker.errors import DockerException

from bench.errors import EnvironmentUnavailable

# Whatever docker-py lets through where an engine ends in the middle of an answer.
LOST = (DockerException, requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError)
START_IT = "start it (sudo systemctl start docker)"
OR_LOCAL = "or use --launcher local"
_NO_ADDRESS = (
    r"Invalid (?:bind address|IPv6|URL|host)|port is required|Port (?:out of range|could not)|protocol is not|"
    r"invalid label|_custom_adapter|idna"
)
_LIMIT = 300


class _Known(NamedTuple):
    """A pattern of what the engine says, and the sentence for it, in which the pattern's groups may stand."""

    pattern: str
    sentence: str


_FULL = _Known(
    r"no space left on device|disk quota exceeded",
    "the disk of the Docker engine is full{disk}; free some: docker system df shows what holds it, "
    "bench clean --images removes the images of bench, docker system prune what no container uses",
)
_OTHER_BYTES = _Known(
    r"verification failed for digest (?P<digest>sha256:\w{12})|digest (?:mismatch|did not match)|unexpected digest",
    "the registry serves other bytes than the digest {digest} promises, and none of it was kept; "
    "pull from another registry or mirror, or correct the digest",
)
_FINAL = (_FULL, _OTHER_BYTES)
_KNOWN = (
    *_FINAL,
    _Known(
        r"cannot allocate memory|not enough memory",
        "the machine has no memory left for another container; end other programs, "
        "or write schedule: serial into the matrix",
    ),
    _Known(
        r"resource temporarily unavailable|failed to create new OS thread",
        "the machine starts no further process; end other programs, or raise the limit of the engine's service "
        "(systemctl show docker --property TasksMax)",
    ),
    _Known(
        r"No such image: (?P<name>\S+?)[\"')]*$",
        "the image {name} is not on the Docker engine (any more); bench images build makes those of bench, "
        "docker pull fetches others",
    ),
    _Known(
        r"manifest for (?P<name>\S+@sha256:\w{12})\w* not found|(?P<other>\S+@sha256:\w{12})\S*: not found",
        "the registry has no image {name}…; docker buildx imagetools inspect NAME:TAG prints the digest that a tag "
        "has today",
    ),
    _Known(
        r"manifest for (?P<name>\S+) not found|manifest unknown",
        "the registry has no image {name}; check its name, and its tag or digest",
    ),
    _Known(
        r"pull access denied for (?P<name>[^\s,]+)|unauthorized|authentication required",
        "the registry has no image {name}, or shows it to others only; check its name, or docker login",
    ),
    _Known(r"toomanyrequests", "the registry gives this address no more today; docker login, or wait some hours"),
    _Known(
        r"x509|certificate signed by unknown",
        "the registry's certificate is not trusted by the Docker engine; put the authority's certificate into "
        "/etc/docker/certs.d/HOST/ca.crt",
    ),
    _Known(
        r"Get \\?\"(?P<url>https?://[^/\"\s]+).*(?:no such host|connection refused|timeout|timed out|unreachable)",
        "the registry {url} does not answer the Docker engine; check the engine's network or proxy",
    ),
    _Known(
        r"client version (?P<version>\S+) is too (?P<how>old|new)\.(?P<bound>[^\"']*)|"
        r"API versions? below (?P<least>\S+) (?:are|is) no longer supported",
        "the Docker engine and this program share no version of its interface{bound}; "
        "upgrade the older of the two: the engine, or pip install --upgrade docker",
    ),
    _Known(
        r"Requested CPUs are not available - requested (?P<asked>\S+), available: (?P<given>[\d,-]+)",
        "the Docker engine may use the processors {given}, not {asked}; start bench on those: taskset -c {given} bench",
    ),
    _Known(
        r"bind source path does not exist: (?P<path>[^\"'\s]+)|[Mm]ounts denied",
        "the Docker engine does not see the folder {path} of this machine: it is remote, in a virtual machine or in a "
        "container itself; use this machine's own engine, or --launcher local",
    ),
    _Known(r"exec format error", "the image is for another processor than this machine's; name one that is for it"),
    _Known(
        r"exec: \\?\"(?P<command>[^\"\\]+)\\?\": (?:executable file not found|stat \S+ no such file|permission denied)",
        "the image has no program {command} that could be started; name an image with Python 3, "
        "or give --base one that docker images lists",
    ),
    _Known(
        r"(?:OCI runtime|runc|shim task).*(?:cgroup|cpuset)",
        "the Docker engine could not make the container's cgroup ({deepest}); restart it (sudo systemctl restart "
        "docker), and compare docker info --format '{{{{.CgroupDriver}}}}' with what systemd uses",
    ),
    _Known(
        r"OCI runtime|\brunc\b|shim task",
        "the Docker engine's runtime could not start the container ({deepest}); docker run --rm IMAGE true shows "
        "whether any starts, journalctl -u docker says more",
    ),
)
_WRAPPERS = (
    r"failed to create (?:shim )?task(?: for container)?|failed to create shim|OCI runtime \w+ failed|"
    r"runc \w+ failed|(?:container|process|rootfs|standard_init)_linux\.go:\d+|starting container process caused|"
    r"unable to start container process|container init caused|error during container init"
)


def explained(error: object, client: Any = None) -> str:
    """One sentence: what the engine said and what to do about it.

    client  where it is given, a full disk is told with its size
    """
    text = _text(error)
    for known in _KNOWN:
        if found := re.search(known.pattern, text, re.IGNORECASE):
            values = {name: value for name, value in found.groupdict().items() if value}
            values["name"] = values.get("name") or values.get("other") or "of that name"
            values["bound"] = _bound(values)
            filled = {"digest": "asked for", "path": "given", "disk": _disk(client), "deepest": deepest(text), **values}
            return known.sentence.format(**filled)
    return _short(text)


def is_final(error: object) -> bool:
    """Whether no other source helps or may be taken: a full disk, or bytes that break the digest asked for."""
    return any(re.search(known.pattern, _text(error), re.IGNORECASE) for known in _KNOWN if known in _FINAL)


def unreachable(address: str, error: object) -> str:
    """One sentence where nothing answers at the engine's address."""
    text = _text(error)
    path = address.removeprefix("unix://")
    if "Permission denied" in text or "PermissionError" in text:
        return (
            f"this user may not talk to the Docker engine at {address}; "
            f'add it to the group docker (sudo usermod -aG docker "$USER") and log in again, {OR_LOCAL}'
        )
    if "too old" in text or "too new" in text or "no longer supported" in text:
        return f"{explained(error)}, {OR_LOCAL}"
    if re.search(_NO_ADDRESS, text, re.IGNORECASE):
        why = "that is no address of one; write DOCKER_HOST like unix:///var/run/docker.sock or tcp://HOST:2376"
    elif "paramiko" in text:
        why = "reaching one by ssh takes the package paramiko; pip install paramiko"
    elif "client_cert" in text or "TLS" in text:
        why = f"{_short(text.partition('.')[0])}; DOCKER_CERT_PATH names a folder with ca.pem, cert.pem and key.pem"
    elif address.startswith("unix://") and "FileNotFoundError" in text:
        why = f"there is no socket {path}; install Docker or {START_IT}"
    elif address.startswith("unix://") and "refused" in text:
        why = f"the socket {path} is there, but nobody listens on it; {START_IT}"
    elif "timed out" in text.lower():
        why = "it took the connection and says nothing; restart it (sudo systemctl restart docker)"
    elif "resolve" in text.lower():
        why = "the host's name is unknown; correct DOCKER_HOST or docker context use default"
    elif "refused" in text:
        why = f"the connection was refused; {START_IT}, or correct DOCKER_HOST"
    else:
        why = f"{_short(text)}; {START_IT}"
    return f"no Docker engine answers at {address}: {why}, {OR_LOCAL}"


def went_away(error: object) -> str:
    """One sentence where an engine that answered before does so no more."""
    text = _text(error)
    if "timed out" in text.lower():
        how = "it says nothing any more"
    elif "FileNotFoundError" in text or "refused" in text or "no Docker engine" in text:
        how = "it does not run any more"
    elif re.search("RemoteDisconnected|ConnectionReset|BrokenPipe|IncompleteRead|Connection (?:aborted|broken)", text):
        how = "it broke the connection off"
    else:
        how = _short(text)
    return f"the Docker engine went away: {how}; {START_IT} and resume the run"


def refuse_remote_address(address: str) -> None:
    """Raises EnvironmentUnavailable where the address alone says that the engine is on another machine."""
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise EnvironmentUnavailable(unreachable(address, error)) from None
    if parts.scheme == "ssh" or (parts.scheme in ("tcp", "http", "https") and not _is_ours(parts.hostname or "")):
        raise EnvironmentUnavailable(_remote(address, "is on another machine"))


def refuse_remote(address: str, info: dict[str, Any], *, kernel: str, memory_bytes: int | None) -> None:
    """Raises EnvironmentUnavailable where the engine says that it runs on another kernel than this process does.

    info  what the engine says of its machine
    """
    if "Docker Desktop" in str(info.get("OperatingSystem")):
        raise EnvironmentUnavailable(_remote(address, "is Docker Desktop's, in a virtual machine of its own"))
    theirs = {"kernel": info.get("KernelVersion"), "memory": info.get("MemTotal")}
    for what, own in {"kernel": kernel, "memory": memory_bytes}.items():
        if own is not None and theirs[what] not in (own, None, ""):
            raise EnvironmentUnavailable(
                _remote(address, f"is on another machine ({what} {theirs[what]} there, {own} here)")
            )


def elsewhere(address: str) -> EnvironmentUnavailable:
    """The engine started a process that is none of this machine's."""
    return EnvironmentUnavailable(_remote(address, "starts its containers where this process cannot see them"))


def seccomp_note(info: dict[str, Any]) -> str | None:
    """What a reader of the run should know where the engine's own filter of system calls does not hold."""
    options = [str(option) for option in info.get("SecurityOptions") or []]
    found = next((option for option in options if option.startswith("name=seccomp")), None)
    if found is None:
        return "the Docker engine filters no system calls of containers (no seccomp)"
    profile = found.partition("profile=")[2]
    if profile in ("default", "builtin", ""):
        return None
    return f"the Docker engine filters system calls by a profile of its owner ({profile}), not by its default one"


def limits_note(info: dict[str, Any]) -> str | None:
    """What a reader of the run should know where the engine cannot hold containers to their limits."""
    limits = {"MemoryLimit": "memory", "SwapLimit": "swap", "PidsLimit": "processes", "CPUSet": "processors"}
    lacking = [what for key, what in limits.items() if info.get(key) is False]
    return f"the Docker engine does not limit {' and '.join(lacking)} of a container here" if lacking else None


def deepest(text: str) -> str:
    """The reason under all that engine, shim and runtime wrapped around it."""
    inner = re.sub(rf"(?:{_WRAPPERS}): ", "", text)
    return _short(re.sub(r"(?:: unknown)+$", "", inner).strip('"() '))


def _remote(address: str, how: str) -> str:
    return (
        f"the Docker engine at {address} {how}: its folders, processes and counters are not this machine's, so nothing "
        f"could be measured; run bench there, use this machine's engine (DOCKER_HOST=unix:///var/run/docker.sock), "
        f"{OR_LOCAL}"
    )


def _is_ours(host: str) -> bool:
    """Whether an address belongs to this machine: only such a one can be bound. An unknown name is not judged."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True
    for family, kind, _, _, where in found:
        with suppress(OSError), socket.socket(family, kind) as probe:
            probe.bind(where)
            return True
    return False


def _disk(client: Any) -> str:
    """How full the engine's data root is, where this machine can see it."""
    if client is None:
        return ""
    with suppress(*LOST):
        root = str(client.info()["DockerRootDir"])
        usage = shutil.disk_usage(root)
        return f" ({root}: {usage.free / 1e6:,.0f} MB free of {usage.total / 1e6:,.0f})"
    return ""


def _bound(values: dict[str, str]) -> str:
    if "least" in values:
        return f" (the engine's is older than {values['least']})"
    said = values.get("bound", "").strip()
    return f" (asked for {values['version']}; {said})" if said else ""


def _text(error: object) -> str:
    return " ".join(str(getattr(error, "explanation", None) or error).split())


def _short(text: str) -> str:
    return text[:_LIMIT]
