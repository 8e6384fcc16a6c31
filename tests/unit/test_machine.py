"""What the machine's counters gained: from literal trees of /proc and /sys, and a stand-in for NVML's binding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from stand_in_nvml import NvmlStandIn

from bench.telemetry import disturbances
from bench.telemetry.disturbances import OfArm, OfGpu, OfMachine, Watch, Watched
from bench.telemetry.nvml import Size

PID = 4242
V2 = "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = (
    "33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
PRESSURE = "some avg10=9.00 avg60=8.00 avg300=4.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"
Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write one file of the machine below tmp_path."""

    def one(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    return one


def cpu_stat(throttled: int) -> str:
    return f"usage_usec 5\nnr_periods 40\nnr_throttled {throttled}\nthrottled_usec 900\n"


def ticks(cpu: int, *, user: int, steal: int) -> str:
    return f"cpu{cpu} {user} 1 2 5000 6000 3 4 {steal} 0 0\n"


def of_this_process(write: Write) -> None:
    """A harness in a container with a quota, and processor 1 for its arms."""
    write("proc/self/mountinfo", V2)
    write("proc/self/cgroup", "0::/\n")
    write(f"proc/{PID}/cgroup", "0::/\n")
    write("sys/fs/cgroup/cgroup.procs", "1\n")
    write("sys/fs/cgroup/cpu.stat", cpu_stat(5))
    write("proc/stat", "cpu  1 2 3\n" + ticks(0, user=9, steal=9) + ticks(1, user=100, steal=0))
    for what in ("cpu", "memory", "io"):
        write(f"proc/pressure/{what}", PRESSURE.format(1_000_000))
    write("sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", "3\n")
    write("sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count", "8\n")
    write("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "50\n")
    write(f"proc/{PID}/task/{PID}/schedstat", "900 2000000000 5\n")


def test_every_counter_of_the_machine_is_read_before_and_after(tmp_path: Path, write: Write) -> None:
    of_this_process(write)
    watch = Watch(cpus={1}, arms={"arm": Watched(PID, "process", {0, 1})}, root=tmp_path)
    write("sys/fs/cgroup/cpu.stat", cpu_stat(7))
    write("proc/stat", "cpu  1 2 3\n" + ticks(0, user=99, steal=99) + ticks(1, user=150, steal=25))
    write("proc/pressure/cpu", PRESSURE.format(1_500_000))
    write("proc/pressure/io", PRESSURE.format(1_250_000))
    write("sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count", "9\n")
    write("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "70\n")
    write(f"proc/{PID}/task/{PID}/schedstat", "950 2300000000 6\n")
    write(f"proc/{PID}/task/4250/schedstat", "950 200000000 6\n")
    gained = watch.gained()
    assert gained.machine == OfMachine(
        throttled=2, overheated=1, busy_s=0.5, steal_s=0.25, pressure_cpu_s=0.5, pressure_memory_s=0, pressure_io_s=0.25
    )
    assert gained.arms["arm"] == OfArm(
        waited_s=pytest.approx(0.5), overheated=21, busy_s=1.4, steal_s=pytest.approx(1.15)
    ), "of its own processors"
    assert gained.gpu is None
    own = "a local worker has no control group of its own"
    fields = ("throttled", "pressure_cpu_s", "pressure_memory_s", "pressure_io_s")
    assert watch.nulls == {f"arm.{field}": own for field in fields}


def test_a_container_is_read_from_its_own_groups_and_those_above_that_are_not_the_harnesses(
    tmp_path: Path, write: Write
) -> None:
    of_this_process(write)
    write("proc/self/mountinfo", V1)
    write("proc/self/cgroup", "2:cpu:/\n0::/\n")
    write(f"proc/{PID}/cgroup", "2:cpu:/docker/c1\n0::/docker/c1\n")
    for group, throttled in (("", 5), ("docker/", 0), ("docker/c1/", 1)):
        write(f"sys/fs/cgroup/cpu/{group}cgroup.procs", "")
        write(f"sys/fs/cgroup/cpu/{group}cpu.stat", cpu_stat(throttled))
        write(f"sys/fs/cgroup/unified/{group}cgroup.procs", "")
        write(f"sys/fs/cgroup/unified/{group}cpu.stat", "usage_usec 5\n")
    for what in ("cpu", "memory", "io"):
        write(f"sys/fs/cgroup/unified/docker/c1/{what}.pressure", PRESSURE.format(0))
    watch = Watch(cpus={1}, arms={"arm": Watched(PID, "cgroup", {1})}, root=tmp_path)
    write("sys/fs/cgroup/cpu/docker/c1/cpu.stat", cpu_stat(4))
    write("sys/fs/cgroup/cpu/docker/cpu.stat", cpu_stat(10))
    write("sys/fs/cgroup/unified/docker/c1/cpu.pressure", PRESSURE.format(300_000))
    gained = watch.gained()
    assert gained.arms["arm"] == OfArm(
        throttled=13,
        overheated=0,
        busy_s=0,
        steal_s=0,
        waited_s=0,
        pressure_cpu_s=0.3,
        pressure_memory_s=0,
        pressure_io_s=0,
    )
    assert gained.machine.throttled == 0
    assert watch.nulls == {}


def test_an_arm_in_the_harnesses_own_group_has_none(tmp_path: Path, write: Write) -> None:
    of_this_process(write)
    watch = Watch(cpus={1}, arms={"arm": Watched(PID, "cgroup", {1})}, root=tmp_path)
    assert watch.gained().arms["arm"] == OfArm(overheated=0, busy_s=0, steal_s=0, waited_s=0)
    assert set(watch.nulls) == {
        f"arm.{field}" for field in OfArm._fields if "pressure" in field or field == "throttled"
    }


def test_what_cannot_be_read_is_none_with_its_reason_and_never_zero(tmp_path: Path) -> None:
    watch = Watch(cpus={1}, arms={"arm": Watched(PID, "cgroup", {1})}, root=tmp_path)
    gained = watch.gained()
    assert gained.machine == OfMachine()
    assert gained.arms == {"arm": OfArm()}
    assert set(watch.nulls) == {*OfMachine._fields, *(f"arm.{field}" for field in OfArm._fields)}


def test_a_counter_that_goes_away_meanwhile_is_none_and_not_what_was_left(tmp_path: Path, write: Write) -> None:
    of_this_process(write)
    watch = Watch(cpus={1}, arms={}, root=tmp_path)
    (tmp_path / "sys/fs/cgroup/cpu.stat").unlink()
    (tmp_path / "sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count").unlink()
    (tmp_path / "proc/pressure/cpu").write_text("nothing\n")
    gained = watch.gained()
    assert (gained.machine.throttled, gained.machine.overheated, gained.machine.pressure_cpu_s) == (None, None, None)
    assert watch.nulls == {
        "throttled": "No such file or directory",
        "overheated": "No such file or directory",
        "pressure_cpu_s": "cpu has no total",
    }


def test_a_processor_that_the_kernel_does_not_show_has_no_ticks(tmp_path: Path, write: Write) -> None:
    of_this_process(write)
    watch = Watch(cpus={1, 11}, arms={}, root=tmp_path)
    assert watch.gained().machine.steal_s is None
    assert watch.nulls["steal_s"] == "/proc/stat shows 1 of 2 processors"


# ---------------------------------------------------------------- NVML


class Driver(NvmlStandIn):
    """A stand-in for the module pynvml: one GPU, whose counters can be set."""

    def __init__(self, *, count: int = 1) -> None:
        self.count, self.open = count, 0
        self.reasons = 0x1
        self.held_ns = {pynvml.NVML_FI_DEV_PERF_POLICY_THERMAL: 5, pynvml.NVML_FI_DEV_PERF_POLICY_POWER: 10**9}

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.65"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return "NVIDIA H100"

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int, version: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(total=80_000)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:  # noqa: N802
        return self.reasons

    def nvmlDeviceGetFieldValues(self, handle: int, fields: list[int]) -> list[Any]:  # noqa: N802
        (field,) = fields
        held_ns = self.held_ns.get(field)
        refused = pynvml.NVML_ERROR_NOT_SUPPORTED if held_ns is None else 0
        return [SimpleNamespace(nvmlReturn=refused, valueType=3, value=SimpleNamespace(ullVal=held_ns or 0))]

    def nvmlDeviceGetNumGpuCores(self, handle: int) -> int:  # noqa: N802
        return 16896

    def nvmlDeviceGetMaxClockInfo(self, handle: int, kind: int) -> int:  # noqa: N802
        return {pynvml.NVML_CLOCK_SM: 1980}[kind]


def test_a_gpus_counters_are_read_before_and_after_and_what_holds_it_at_either_end(tmp_path: Path) -> None:
    driver = Driver()
    watch = Watch(cpus={1}, arms={}, gpu=True, root=tmp_path, api=driver)
    driver.held_ns[pynvml.NVML_FI_DEV_PERF_POLICY_THERMAL] += 1_500_000_000
    driver.reasons = 0x40
    gained = watch.gained()
    assert gained.gpu == OfGpu(thermal_s=1.5, power_cap_s=0.0, board_limit_s=None, reasons=0x41)
    assert gained.gpu_size == Size(cores=16896, sm_clock_mhz=1980)
    assert watch.nulls["GPU-0.board_limit_ns"] == "Not Supported"
    assert driver.open == 0


def test_a_gpu_that_does_not_answer_is_none_with_a_reason(tmp_path: Path) -> None:
    watch = Watch(cpus={1}, arms={}, gpu=True, root=tmp_path, api=Driver(count=0))
    gained = watch.gained()
    assert gained.gpu == OfGpu()
    assert gained.gpu_size == Size()
    assert watch.nulls["gpu"] == "NVML shows no GPU"


def test_no_gpu_is_asked_where_no_arm_uses_one(tmp_path: Path) -> None:
    driver = Driver()
    watch = Watch(cpus={1}, arms={}, root=tmp_path, api=driver)
    assert watch.gained().gpu is None
    assert "gpu" not in watch.nulls


def test_every_field_is_documented() -> None:
    likewise = {"pressure_memory_s", "pressure_io_s"}
    for kind in (disturbances.OfMachine, disturbances.OfArm, disturbances.OfGpu):
        assert [field for field in kind._fields if field not in str(kind.__doc__) and field not in likewise] == []
