"""What one GPU says of itself at one moment, and which calls of NVML answer it.

Sources: NVML API Reference Guide, "Device Queries", "Field Value Queries" and "Field Value Enums".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

_ALL_LINKS = 0xFFFFFFFF  # the scope of NVLink's counters that means their sum
# What is said of power on Ampere does not hold for GA100, which is in these.
_GA100 = re.compile(r"\b(A100X?|A800X?|A30X?|CMP 170HX)\b")
_AMPERE, _UNKNOWN = 7, 0xFFFFFFFF  # NVML_DEVICE_ARCH_*


class Reading(NamedTuple):
    """What one GPU said at one moment; None is "not measured", never 0.

    gpu_util_percent             share of the last sample period (1/6 to 1 s, by product) with a kernel running: no
                                 occupancy
    gpu_memory_util_percent      share of that period in which memory was read or written
    gpu_memory_used_bytes        of all processes, without what the driver reserves (memory info v2)
    gpu_memory_reserved_bytes    that which the driver and the firmware reserve
    power_mw                     nvmlDeviceGetPowerUsage, of the board; `devices` says whether average or instant
    power_average_mw             the average of a second (field 185)
    power_instant_mw             of this moment (field 186)
    energy_mj                    since the driver was loaded; moves about every 100 ms
    sm_clock_mhz                 clock of the streaming multiprocessors; memory_clock_mhz likewise
    temperature_c                of the GPU's die; memory_temperature_c of its memory
    clock_reasons                what holds the clock back now, a set of bits (nvmlClocksEventReasons)
    thermal_ns                   for how long heat has lowered its clock since the driver was loaded; likewise
                                 power_cap_ns (its power limit), board_limit_ns and sync_boost_ns (another GPU of its
                                 group)
    pcie_tx_bytes, pcie_rx_bytes what went over PCIe, wrap-around taken out
    nvlink_tx_kib, nvlink_rx_kib data over all NVLinks
    ecc_corrected, ecc_uncorrected errors of memory since the driver was loaded
    """

    gpu_util_percent: int | None = None
    gpu_memory_util_percent: int | None = None
    gpu_memory_used_bytes: int | None = None
    gpu_memory_reserved_bytes: int | None = None
    power_mw: int | None = None
    power_average_mw: int | None = None
    power_instant_mw: int | None = None
    energy_mj: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    memory_temperature_c: int | None = None
    clock_reasons: int | None = None
    thermal_ns: int | None = None
    power_cap_ns: int | None = None
    board_limit_ns: int | None = None
    sync_boost_ns: int | None = None
    pcie_tx_bytes: int | None = None
    pcie_rx_bytes: int | None = None
    nvlink_tx_kib: int | None = None
    nvlink_rx_kib: int | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None


class Program(NamedTuple):
    """A process that computes on a GPU, by its number on the host.

    memory_bytes  of the GPU's memory that it holds; None where the driver does not say
    sm_percent    of the time since the last question in which its kernels ran; None where it is not told
    """

    pid: int
    memory_bytes: int | None = None
    sm_percent: int | None = None


class Call(NamedTuple):
    """One call of NVML and the fields of a Reading that it answers, in order."""

    fields: tuple[str, ...]
    ask: Callable[[Any], tuple[int, ...]]


def calls(api: Any) -> tuple[Call, ...]:
    """All that is asked by a call of its own; `api` is the module pynvml."""
    return (
        Call(("gpu_util_percent", "gpu_memory_util_percent"), lambda gpu: _utilization(api, gpu)),
        Call(("gpu_memory_used_bytes", "gpu_memory_reserved_bytes"), lambda gpu: _memory(api, gpu)),
        Call(("power_mw",), lambda gpu: (api.nvmlDeviceGetPowerUsage(gpu),)),
        Call(("energy_mj",), lambda gpu: (api.nvmlDeviceGetTotalEnergyConsumption(gpu),)),
        Call(("sm_clock_mhz",), lambda gpu: (api.nvmlDeviceGetClockInfo(gpu, api.NVML_CLOCK_SM),)),
        Call(("memory_clock_mhz",), lambda gpu: (api.nvmlDeviceGetClockInfo(gpu, api.NVML_CLOCK_MEM),)),
        Call(("temperature_c",), lambda gpu: (api.nvmlDeviceGetTemperature(gpu, api.NVML_TEMPERATURE_GPU),)),
        # by its older name, which every driver has
        Call(("clock_reasons",), lambda gpu: (api.nvmlDeviceGetCurrentClocksThrottleReasons(gpu),)),
    )


def field_values(api: Any) -> dict[str, Any]:
    """The fields of a Reading that one call of nvmlDeviceGetFieldValues answers, with their numbers (and scope).

    The counters of hardware slowdown are left out: their fields have other numbers in other drivers (251 to 253, or 269
    to 271), and a wrong one reads something else. Those of the policies have stayed the same.
    """
    return {
        "power_average_mw": api.NVML_FI_DEV_POWER_AVERAGE,
        "power_instant_mw": api.NVML_FI_DEV_POWER_INSTANT,
        "memory_temperature_c": api.NVML_FI_DEV_MEMORY_TEMP,
        "thermal_ns": api.NVML_FI_DEV_PERF_POLICY_THERMAL,
        "power_cap_ns": api.NVML_FI_DEV_PERF_POLICY_POWER,
        "board_limit_ns": api.NVML_FI_DEV_PERF_POLICY_BOARD_LIMIT,
        "sync_boost_ns": api.NVML_FI_DEV_PERF_POLICY_SYNC_BOOST,
        "pcie_tx_bytes": api.NVML_FI_DEV_PCIE_COUNT_TX_BYTES,
        "pcie_rx_bytes": api.NVML_FI_DEV_PCIE_COUNT_RX_BYTES,
        "nvlink_tx_kib": (api.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, _ALL_LINKS),
        "nvlink_rx_kib": (api.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, _ALL_LINKS),
        "ecc_corrected": api.NVML_FI_DEV_ECC_SBE_VOL_TOTAL,
        "ecc_uncorrected": api.NVML_FI_DEV_ECC_DBE_VOL_TOTAL,
    }


WRAPPING = ("pcie_tx_bytes", "pcie_rx_bytes")
# The member of the answer's union, and its bits, by nvmlValueType_t.
_MEMBERS = {0: ("dVal", 64), 1: ("uiVal", 32), 2: ("ulVal", 64), 3: ("ullVal", 64), 4: ("sllVal", 64), 5: ("siVal", 32),
            6: ("usVal", 16)}  # fmt: skip


def value_of(answer: Any) -> tuple[int, int]:
    """The number in one answer of nvmlDeviceGetFieldValues, and how many bits it has."""
    member, bits = _MEMBERS[answer.valueType]
    return int(getattr(answer.value, member)), bits


class Unwrapped:
    """A counter of so many bits as one that never begins anew at 0."""

    def __init__(self) -> None:
        self._last = self._added = 0

    def __call__(self, value: int, bits: int) -> int:
        """The counter without its wraps; one of 64 bits does not wrap, and a smaller value is given as it is."""
        if value < self._last and bits == 32:
            self._added += 2**bits
        self._last = value
        return value + self._added


def power_is(architecture: int | None, name: str) -> str | None:
    """What `power_mw` is: "average of 1 s" on Ampere and later but for GA100, "instant" elsewhere; None: not known.

    Source: NVML API Reference Guide, nvmlDeviceGetPowerUsage.
    """
    if architecture in (None, _UNKNOWN):
        return None
    return "average of 1 s" if architecture >= _AMPERE and not _GA100.search(name) else "instant"


def _utilization(api: Any, gpu: Any) -> tuple[int, int]:
    rates = api.nvmlDeviceGetUtilizationRates(gpu)
    return rates.gpu, rates.memory


def _memory(api: Any, gpu: Any) -> tuple[int, int]:
    info = api.nvmlDeviceGetMemoryInfo(gpu, version=api.nvmlMemory_v2)
    return info.used, info.reserved
