"""A machine made of files that is well, a driver that is, and what must hold of any finding of `bench check`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
from stand_in_nvml import NvmlStandIn

from bench.machine import describe
from bench.machine.check import inspect
from bench.machine.check.findings import Finding, Machine

CPU = "sys/devices/system/cpu"
CLOCK = "sys/devices/system/clocksource/clocksource0"
V2_MOUNT = "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1_MOUNT = "33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
MEMINFO = "MemTotal: 16777216 kB\nMemAvailable: {available} kB\nSwapTotal: {total} kB\nSwapFree: {free} kB\n"
# Four cores on one node, the arms on the last; nothing to complain of.
WELL = {
    **{f"{CPU}/cpu{cpu}/cpufreq/scaling_governor": "performance\n" for cpu in range(4)},
    **{f"{CPU}/cpu{cpu}/topology/thread_siblings_list": f"{cpu}\n" for cpu in range(4)},
    f"{CPU}/intel_pstate/no_turbo": "1\n",
    f"{CPU}/smt/control": "on\n",
    f"{CPU}/isolated": "3\n",
    f"{CPU}/vulnerabilities/meltdown": "Not affected\n",
    "sys/devices/system/node/node0/cpulist": "0-3\n",
    f"{CLOCK}/current_clocksource": "tsc\n",
    f"{CLOCK}/available_clocksource": "tsc hpet acpi_pm\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/class/power_supply/AC/type": "Mains\n",
    "sys/class/power_supply/AC/online": "1\n",
    "sys/class/power_supply/BAT0/type": "Battery\n",
    "sys/class/power_supply/BAT0/status": "Charging\n",
    "sys/fs/cgroup/cgroup.procs": "1\n",
    "sys/fs/cgroup/user.slice/cgroup.procs": "",
    "sys/fs/cgroup/user.slice/cpu.max": "max 100000\n",
    "sys/fs/cgroup/user.slice/me.scope/cgroup.procs": "7\n",
    "sys/fs/cgroup/user.slice/me.scope/cpu.max": "max 100000\n",
    "sys/fs/cgroup/user.slice/me.scope/cpu.stat": "usage_usec 9\nnr_periods 40\nnr_throttled 0\n",
    "proc/self/mountinfo": V2_MOUNT,
    "proc/self/cgroup": "0::/user.slice/me.scope\n",
    "proc/self/personality": "00000000\n",
    "proc/sys/kernel/randomize_va_space": "2\n",
    "proc/sys/vm/swappiness": "60\n",
    "proc/cpuinfo": "processor: 0\nflags: fpu avx2\n",
    "proc/meminfo": MEMINFO.format(available=8 * 2**20, total=0, free=0),
    "proc/loadavg": "0.10 0.20 0.30 1/200 4000\n",
}
SCOPE = "sys/fs/cgroup/user.slice/me.scope"
FILE_PROBES = [probe for probe in inspect.PROBES if probe.__name__ not in ("cores", "disk", "timer", "docker")]

Write = Callable[..., Machine]


def writer(folder: Path) -> Write:
    """A function that writes a machine of such files, the arms on its last CPU."""

    def write(files: dict[str, str], *, arms: frozenset[int] = frozenset({3}), control: str = "0-2") -> Machine:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Machine(root=folder, arms=arms, control=describe.cpu_numbers(control) or frozenset())

    return write


def sound(finding: Finding) -> Finding:
    """What must hold of any finding: a cure where there is something to cure; a command that a shell can read."""
    assert (finding.cure is None) == (finding.level == "ok"), finding
    assert finding.found, finding
    assert finding.why.endswith("."), finding
    for text in (finding.found, finding.cure or ""):
        assert "\n" not in text
    if finding.cure and not finding.cure.endswith("."):
        subprocess.run(["bash", "-n", "-c", finding.cure], check=True)
    return finding


class Driver(NvmlStandIn):
    """A stand-in for the module pynvml: one GPU that is well, with what a test changes; an int is an error's code."""

    def __init__(self, **changes: Any) -> None:
        well = {
            "SystemGetDriverVersion": "580.65", "DeviceGetCount": 1, "DeviceGetHandleByIndex": 0,
            "DeviceGetName": "NVIDIA H100", "DeviceGetUUID": "GPU-0", "DeviceGetMemoryInfo": SimpleNamespace(total=80),
            "Init": None, "Shutdown": None, "DeviceGetPersistenceMode": 1, "DeviceGetTemperatureThreshold": 90,
            "DeviceGetTemperature": 40, "DeviceGetCurrentClocksThrottleReasons": 1, "DeviceGetMigMode": [0, 0],
            "DeviceGetComputeRunningProcesses_v3": [],
        }  # fmt: skip
        self._answers = {**well, **changes}

    def __getattr__(self, name: str) -> Any:
        if name.removeprefix("nvml") not in self._answers:
            return super().__getattr__(name)
        answer = self._answers[name.removeprefix("nvml")]

        def call(*_: object, **__: object) -> Any:
            if isinstance(answer, pynvml.NVMLError):
                raise answer
            return answer

        return call
