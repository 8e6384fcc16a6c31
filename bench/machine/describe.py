"""What machine this is, in terms that may be published.

No host name, user name or path is ever in a description. What cannot be read is None, never a guess.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import bench
from bench.errors import WorkerFailed
from bench.machine import checkout
from bench.telemetry import cgroup, nvml
from workloads.contract import STUB, Cell

SCHEMA = "bench.environment/1"
# The vector and matrix extensions that decide which kernels a framework picks.
_FLAGS = re.compile(r"avx|amx|fma$|f16c$|sse4|neon|asimd|sve|bf16$|i8mm$")


def describe(*, device: str, docker_engine: str | None = None, root: Path = Path("/")) -> dict[str, Any]:
    """This machine and this program now, as plain JSON.

    device         what the run's cells resolve to, cpu or cuda: recorded as it is
    docker_engine  the engine's version, where the launcher has asked one
    root           where proc, sys and etc are found; another folder in tests
    """
    gpu_source, gpus = nvml.source(), nvml.devices()
    return {
        "schema": SCHEMA,
        "device": device,
        "architecture": platform.machine(),
        "kernel": os.uname().release,
        "distribution": _distribution(root),
        "cpu": _cpu(root),
        "memory_bytes": memory_bytes(root),
        "virtualization": virtualization(root),
        "container": _detected("--container", root),
        "cgroup": cgroup.version(root=root),
        "clocksource": read_line(root / "sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "load_average_1min": load_1min(root),
        "docker": docker_engine,
        "python": platform.python_version(),
        "bench": bench.__version__,
        **checkout.checkout(),
        "gpu_source": gpu_source,
        "gpus": gpus,
    }


def cuda_devices() -> list[dict[str, Any]]:
    """The GPUs that a cell with `device: cuda` can run on; a replayed trace is none."""
    return nvml.devices() if nvml.source() == "nvml" else []


def is_replayed() -> bool:
    """Whether what calls itself a GPU here is a replayed trace."""
    return nvml.source() == "replay"


def gpu_for(cell: Cell) -> str | None:
    """The UUID of the GPU that this cell runs on, the first; None for a cell on the CPU.

    A stub takes a replayed one too: its work is the processor's.

    raises  WorkerFailed: there was one, and the driver no longer shows it
    """
    if cell.device != "cuda":
        return None
    found = nvml.devices() if cell.framework.name == STUB else cuda_devices()
    if not found:
        raise WorkerFailed("the NVIDIA driver shows no GPU any more; check nvidia-smi", kind="no_gpu")
    return str(found[0]["uuid"])


# ---------------------------------------------------------------- the processor


def _cpu(root: Path) -> dict[str, Any]:
    info = _cpuinfo(root)
    cpus = root / "sys/devices/system/cpu"
    flags = (info.get("flags") or info.get("Features") or "").split()
    return {
        "model": info.get("model name"),
        "logical": len(cpu_numbers(read_line(cpus / "online")) or ()) or None,
        "physical": _physical_cores(cpus),
        "usable": len(os.sched_getaffinity(0)),
        "flags": sorted(flag for flag in flags if _FLAGS.match(flag)) if flags else None,
        "caches": _caches(cpus / "cpu0/cache"),
        "governor": read_line(cpus / "cpu0/cpufreq/scaling_governor"),
        "boost": boost(cpus),
        "smt": _switch(read_line(cpus / "smt/active")),
    }


def _cpuinfo(root: Path) -> dict[str, str]:
    """The fields of the first processor in /proc/cpuinfo."""
    first = (read_text(root / "proc/cpuinfo") or "").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_numbers(cpus: str | None) -> frozenset[int] | None:
    """The CPUs that a list such as 0-3,8 names."""
    if not cpus:
        return None
    ends = [span.partition("-") for span in cpus.split(",")]
    return frozenset(cpu for first, _, last in ends for cpu in range(int(first), int(last or first) + 1))


def _physical_cores(cpus: Path) -> int | None:
    """Distinct pairs of package and core; hyperthreads of one core share theirs."""
    cores = {
        (read_line(topology / "physical_package_id"), read_line(topology / "core_id"))
        for topology in cpus.glob("cpu[0-9]*/topology")
    }
    return None if not cores or any(None in core for core in cores) else len(cores)


def _caches(folder: Path) -> dict[str, int] | None:
    """Sizes of the first CPU's caches in bytes, by level and kind: L1d, L1i, L2, L3."""
    sizes = {}
    for index in sorted(folder.glob("index*")):
        level, kind, size = (read_line(index / name) for name in ("level", "type", "size"))
        if level and kind and size and size.endswith("K"):
            sizes[f"L{level}{ {'Data': 'd', 'Instruction': 'i'}.get(kind, '') }"] = int(size[:-1]) * 1024
    return sizes or None


def boost(cpus: Path) -> bool | None:
    """Whether the clock may rise above its nominal value, as cpufreq or intel_pstate tells it."""
    allowed = _switch(read_line(cpus / "cpufreq/boost"))
    if allowed is not None:
        return allowed
    forbidden = _switch(read_line(cpus / "intel_pstate/no_turbo"))
    return None if forbidden is None else not forbidden


# ---------------------------------------------------------------- the rest of the machine


def _distribution(root: Path) -> str | None:
    found = re.search(r'^PRETTY_NAME="?(.*?)"?$', read_text(root / "etc/os-release") or "", re.MULTILINE)
    return found[1] if found else None


def memory_bytes(root: Path) -> int | None:
    """Of the whole machine, as /proc/meminfo has it, and with it an engine; None where that cannot be read."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", read_text(root / "proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def load_1min(root: Path) -> float | None:
    """Tasks that ran or waited, averaged over about a minute."""
    line = read_line(root / "proc/loadavg")
    return float(line.split()[0]) if line else None


def virtualization(root: Path) -> str | None:
    """The hypervisor as systemd names it (kvm, vmware, none); where it cannot be asked, "unknown" if there is one."""
    name = _detected("--vm", root)
    flags = _cpuinfo(root).get("flags")
    if name is not None or flags is None:
        return name
    return "unknown" if "hypervisor" in flags.split() else "none"


def _detected(kind: str, root: Path) -> str | None:
    """What systemd-detect-virt says of this machine; None where it is absent or `root` is another machine's."""
    return _output(["systemd-detect-virt", kind], codes=(0, 1)) or None if root == Path("/") else None


def _output(command: list[str], *, codes: tuple[int, ...]) -> str | None:
    """What a program prints, stripped; None where it is absent, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode in codes else None


def read_text(file: Path) -> str | None:
    """All of a file of /proc or /sys; None where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def read_line(file: Path) -> str | None:
    """A file's one line, stripped; None where it is empty or cannot be read."""
    return (read_text(file) or "").strip() or None


def _switch(line: str | None) -> bool | None:
    return {"0": False, "1": True}.get(line or "")
