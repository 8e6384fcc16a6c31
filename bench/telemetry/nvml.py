"""What every NVIDIA GPU says of itself, through NVML where its library is, and nothing at all where it is not.

The binding (nvidia-ml-py, module `pynvml`) is imported only after libnvidia-ml.so.1 was found to load: a machine
without a GPU pays for one failed dlopen.

Source: NVML API Reference Guide, "Device Queries".
"""

from __future__ import annotations

import ctypes
from typing import Any, Literal, NamedTuple

Source = Literal["nvml", "replay", "none"]
LIBRARY = "libnvidia-ml.so.1"
_REPLAY_WORDS = ("stub", "replay")


class Reading(NamedTuple):
    """What one GPU said at one moment; None is "not measured", never 0.

    gpu_util_percent       share of the last sample period (1/6 to 1 s, by product) with a kernel running: no occupancy
    gpu_memory_used_bytes  of all processes, without what the driver reserves (memory info v2)
    power_mw               board power, mW; the average of a second on Ampere and later, except GA100
    energy_mj              mJ since the driver was loaded; moves about every 100 ms
    sm_clock_mhz           clock of the streaming multiprocessors, MHz
    temperature_c          of the GPU's die, °C
    """

    gpu_util_percent: int | None = None
    gpu_memory_used_bytes: int | None = None
    power_mw: int | None = None
    energy_mj: int | None = None
    sm_clock_mhz: int | None = None
    temperature_c: int | None = None


class State(NamedTuple):
    """What of one GPU would spoil a measurement; None is "could not be read", with its reason in `Gpus.nulls`.

    persistence    1 where the driver keeps the GPU initialised between programs
    slowdown_c     the temperature at which it slows itself down, °C
    temperature_c  of the GPU's die now, °C
    reasons        the clock event reasons in effect, a set of bits (nvmlClocksEventReasons)
    mig            1 where it is partitioned (multi-instance GPU)
    programs       the numbers of the processes that compute on it
    """

    persistence: int | None
    slowdown_c: int | None
    temperature_c: int | None
    reasons: int | None
    mig: int | None
    programs: tuple[int, ...] | None


class HeldBack(NamedTuple):
    """For how long a GPU was held back since its driver was loaded, ns, and by what now; None is "could not be read".

    thermal_ns      by its heat, as the driver's own (software) slowdown counts it
    power_cap_ns    by its power limit
    board_limit_ns  by a limit of its board
    reasons         the clock event reasons in effect, a set of bits (nvmlClocksEventReasons)
    """

    thermal_ns: int | None = None
    power_cap_ns: int | None = None
    board_limit_ns: int | None = None
    reasons: int | None = None


class Size(NamedTuple):
    """How large a GPU is; None is "could not be read".

    cores         that multiply and add one fp32 number a cycle
    sm_clock_mhz  the highest that its streaming multiprocessors may reach
    """

    cores: int | None = None
    sm_clock_mhz: int | None = None


class Gpus:
    """All GPUs of this machine, open for reading; never raises, and keeps the reason of every null once."""

    def __init__(self, api: Any = None) -> None:
        """Open NVML; `api` stands in for the module pynvml in tests."""
        self.source: Source = "none"
        self.devices: list[dict[str, Any]] = []
        self.nulls: dict[str, str] = {}
        self._handles: list[Any] = []
        self._unsupported: set[tuple[str, str]] = set()
        self._api = api or _binding()
        if self._api is None:
            return
        try:
            self._api.nvmlInit()
            self._open()
        except self._api.NVMLError as error:
            self.nulls["gpus"] = str(error)
            self.devices, self._handles = [], []

    def _open(self) -> None:
        api = self._api
        driver = api.nvmlSystemGetDriverVersion()
        for index in range(api.nvmlDeviceGetCount()):
            handle = api.nvmlDeviceGetHandleByIndex(index)
            name, uuid = api.nvmlDeviceGetName(handle), api.nvmlDeviceGetUUID(handle)
            self._handles.append(handle)
            device = {"index": index, "uuid": uuid, "name": name, "driver": driver}
            total = self._field(handle, uuid, "memory_bytes", lambda handle: self._memory(handle).total)
            self.devices.append({**device, "memory_bytes": total})
        if self.devices:
            self.source = "replay" if _is_replay(driver, *(device["name"] for device in self.devices)) else "nvml"

    def read(self) -> list[tuple[str, Reading]]:
        """A reading of every GPU, by UUID; a field that fails is None, and one not supported is not asked for again."""
        return [
            (device["uuid"], Reading(*(self._field(handle, device["uuid"], *query) for query in self._queries())))
            for device, handle in zip(self.devices, self._handles, strict=True)
        ]

    def states(self) -> list[tuple[dict[str, Any], State]]:
        """The state of every GPU, beside its entry in `devices`."""
        if not self.devices:
            return []
        api = self._api
        slowdown = api.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
        queries = [
            ("persistence", api.nvmlDeviceGetPersistenceMode),
            ("slowdown_c", lambda gpu: api.nvmlDeviceGetTemperatureThreshold(gpu, slowdown)),
            ("temperature_c", lambda gpu: api.nvmlDeviceGetTemperature(gpu, api.NVML_TEMPERATURE_GPU)),
            ("reasons", api.nvmlDeviceGetCurrentClocksThrottleReasons),  # its older name, which every driver has
            ("mig", lambda gpu: api.nvmlDeviceGetMigMode(gpu)[0]),
        ]
        found = []
        for device, handle in zip(self.devices, self._handles, strict=True):
            fields = {name: self._field(handle, device["uuid"], name, query) for name, query in queries}
            found.append((device, State(**fields, programs=self._programs(handle, device["uuid"]))))
        return found

    def held_back(self) -> list[tuple[str, HeldBack]]:
        """What has held every GPU back, by UUID.

        The counters of hardware slowdown are left out: their fields have other numbers in other drivers (251 to 253,
        or 269 to 271), and a wrong one reads something else. Those of the policies have stayed the same.
        """
        if not self.devices:
            return []
        api = self._api
        queries = [
            ("thermal_ns", lambda gpu: self._counter(gpu, api.NVML_FI_DEV_PERF_POLICY_THERMAL)),
            ("power_cap_ns", lambda gpu: self._counter(gpu, api.NVML_FI_DEV_PERF_POLICY_POWER)),
            ("board_limit_ns", lambda gpu: self._counter(gpu, api.NVML_FI_DEV_PERF_POLICY_BOARD_LIMIT)),
            ("reasons", api.nvmlDeviceGetCurrentClocksThrottleReasons),  # its older name, which every driver has
        ]
        return [
            (device["uuid"], HeldBack(*(self._field(handle, device["uuid"], *query) for query in queries)))
            for device, handle in zip(self.devices, self._handles, strict=True)
        ]

    def sizes(self) -> list[tuple[str, Size]]:
        """How large every GPU is, by UUID."""
        if not self.devices:
            return []
        api = self._api
        queries = [
            ("cores", api.nvmlDeviceGetNumGpuCores),
            ("sm_clock_mhz", lambda gpu: api.nvmlDeviceGetMaxClockInfo(gpu, api.NVML_CLOCK_SM)),
        ]
        return [
            (device["uuid"], Size(*(self._field(handle, device["uuid"], *query) for query in queries)))
            for device, handle in zip(self.devices, self._handles, strict=True)
        ]

    def _counter(self, handle: Any, field: int) -> int:
        (answer,) = self._api.nvmlDeviceGetFieldValues(handle, [field])
        if answer.nvmlReturn:
            raise self._api.NVMLError(answer.nvmlReturn)
        return int(answer.value.ullVal)

    def _programs(self, handle: Any, uuid: str) -> tuple[int, ...] | None:
        try:
            return tuple(one.pid for one in self._api.nvmlDeviceGetComputeRunningProcesses(handle))
        except self._api.NVMLError as error:
            self.nulls.setdefault(f"{uuid}.programs", str(error))
            return None

    def _queries(self) -> list[tuple[str, Any]]:
        """The fields of a Reading, in its order, each with the call that answers it."""
        api = self._api
        return [
            ("gpu_util_percent", lambda handle: api.nvmlDeviceGetUtilizationRates(handle).gpu),
            ("gpu_memory_used_bytes", lambda handle: self._memory(handle).used),
            ("power_mw", api.nvmlDeviceGetPowerUsage),
            ("energy_mj", api.nvmlDeviceGetTotalEnergyConsumption),
            ("sm_clock_mhz", lambda handle: api.nvmlDeviceGetClockInfo(handle, api.NVML_CLOCK_SM)),
            ("temperature_c", lambda handle: api.nvmlDeviceGetTemperature(handle, api.NVML_TEMPERATURE_GPU)),
        ]

    def _memory(self, handle: Any) -> Any:
        return self._api.nvmlDeviceGetMemoryInfo(handle, version=self._api.nvmlMemory_v2)

    def _field(self, handle: Any, uuid: str, field: str, query: Any) -> int | None:
        """The answer, or None with its reason kept."""
        if (uuid, field) in self._unsupported:
            return None
        try:
            return int(query(handle))
        except self._api.NVMLError as error:
            self.nulls.setdefault(f"{uuid}.{field}", str(error))
            if error.value in (self._api.NVML_ERROR_NOT_SUPPORTED, self._api.NVML_ERROR_FUNCTION_NOT_FOUND):
                self._unsupported.add((uuid, field))
            return None

    def close(self) -> None:
        """Let NVML go; what it says then no longer matters."""
        if self._api is None:
            return
        try:
            self._api.nvmlShutdown()
        except self._api.NVMLError:
            self._handles = []


def source() -> Source:
    """Where GPU readings come from here: the driver, a replayed trace that stands in for it, or nowhere."""
    return _opened_once()[0]


def devices() -> list[dict[str, Any]]:
    """Every GPU: index, uuid, name, driver, memory_bytes (or None); empty where there is none."""
    return _opened_once()[1]


def _opened_once() -> tuple[Source, list[dict[str, Any]]]:
    gpus = Gpus()
    gpus.close()
    return gpus.source, gpus.devices


def _binding() -> Any:
    """The module pynvml, or None where the driver's library cannot be loaded or the binding is not installed."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    try:
        import pynvml  # 60 ms that only a machine with a GPU should pay
    except ImportError:
        return None
    return pynvml


def _is_replay(*names: str) -> bool:
    return any(word in name.lower() for name in names for word in _REPLAY_WORDS)
