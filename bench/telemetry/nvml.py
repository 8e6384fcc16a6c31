"""What every NVIDIA GPU says of itself, through NVML where its library is, and nothing at all where it is not.

The binding (nvidia-ml-py, module `pynvml`) is imported only after libnvidia-ml.so.1 was found to load: a machine
without a GPU pays for one failed dlopen.

Source: NVML API Reference Guide, "Device Queries".
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from bench.telemetry import gpu_reading
from bench.telemetry.gpu_reading import Program, Reading, Unwrapped

Source = Literal["nvml", "replay", "none"]
LIBRARY = "libnvidia-ml.so.1"
# nvmlClocksEventReason: HwSlowdown, SwThermalSlowdown, HwThermalSlowdown, HwPowerBrakeSlowdown; a power cap is a note,
# idling and settings are none.
SLOWED = 0x8 | 0x20 | 0x40 | 0x80
_REPLAY_WORDS = ("stub", "replay")


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
    """All GPUs of this machine, open for reading; never raises, and keeps the reason of every null once.

    source     where readings come from
    devices    of every GPU: index, uuid, name, driver, memory_bytes, architecture (NVML_DEVICE_ARCH_*), power_is (what
               power_mw is, or None), and instances: the parts of one that is partitioned (MIG), each with uuid, name
               and memory_bytes
    nulls      "<uuid>.<field>" to the reason why it is, or was at some time, null; "gpus" where NVML does not answer
    errors     (uuid, field) to NVML's number of what keeps the field null now
    opened_ns  when NVML was loaded, CLOCK_MONOTONIC
    """

    def __init__(self, api: Any = None) -> None:
        """Open NVML; `api` stands in for the module pynvml in tests."""
        self.source: Source = "none"
        self.devices: list[dict[str, Any]] = []
        self.nulls: dict[str, str] = {}
        self.errors: dict[tuple[str, str], int] = {}
        self.opened_ns = time.monotonic_ns()
        self._handles: list[Any] = []
        self._read_too: list[tuple[str, Any]] = []  # every GPU and every instance of one, by UUID
        self._unsupported: set[tuple[str, str]] = set()
        self._unwrapped: dict[tuple[str, str], Unwrapped] = {}
        self._seen_us: dict[str, int] = {}
        self._api = api or _binding()
        if self._api is None:
            return
        try:
            self._api.nvmlInit()
            self._open()
        except self._api.NVMLError as error:
            self.nulls["gpus"] = str(error)
            self.devices, self._handles, self._read_too = [], [], []
        self._calls = gpu_reading.calls(self._api)
        self._field_values = gpu_reading.field_values(self._api)

    def _open(self) -> None:
        api = self._api
        driver = api.nvmlSystemGetDriverVersion()
        for index in range(api.nvmlDeviceGetCount()):
            try:
                handle = api.nvmlDeviceGetHandleByIndex(index)
                device = self._describe(handle)
            except api.NVMLError as error:
                self.nulls[f"GPU {index}"] = str(error)
                continue
            self._handles.append(handle)
            self._read_too.append((device["uuid"], handle))
            architecture = self._or_none(api.nvmlDeviceGetArchitecture, handle)
            power_is = gpu_reading.power_is(architecture, device["name"])
            known = {"index": index, "driver": driver, "architecture": architecture, "power_is": power_is}
            self.devices.append({**device, **known, "instances": self._instances(handle)})
        if not self.devices and self.nulls:
            self.nulls["gpus"] = "; ".join(dict.fromkeys(self.nulls.values()))
        if self.devices:
            self.source = "replay" if _is_replay(driver, *(device["name"] for device in self.devices)) else "nvml"

    def _describe(self, handle: Any) -> dict[str, Any]:
        name, uuid = self._api.nvmlDeviceGetName(handle), self._api.nvmlDeviceGetUUID(handle)
        total = self._field(
            handle, uuid, "memory_bytes",
            lambda gpu: self._api.nvmlDeviceGetMemoryInfo(gpu, version=self._api.nvmlMemory_v2).total,
        )  # fmt: skip
        return {"uuid": uuid, "name": name, "memory_bytes": total}

    def _instances(self, handle: Any) -> list[dict[str, Any]]:
        """The parts of a GPU that is partitioned; what only the whole has is null for them."""
        api = self._api
        if not (self._or_none(api.nvmlDeviceGetMigMode, handle) or (0,))[0]:
            return []
        found = []
        for index in range(self._or_none(api.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
            part = self._or_none(api.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
            described = None if part is None else self._or_none(self._describe, part)
            if described:  # this place is taken, by one that answers
                found.append(described)
                self._read_too.append((described["uuid"], part))
        return found

    def read(self) -> Iterator[tuple[str, Reading]]:
        """A reading of every GPU and instance, by UUID, each as it is asked for.

        What fails is None; what is not supported is not asked for again.
        """
        for uuid, handle in self._read_too:
            yield uuid, self._reading(handle, uuid)

    def _reading(self, handle: Any, uuid: str) -> Reading:
        values = self._asked_together(handle, uuid)
        for fields, ask in self._calls:
            if (uuid, fields[0]) in self._unsupported:
                continue
            try:
                answers = ask(handle)
            except self._api.NVMLError as error:
                for field in fields:
                    self._failed(uuid, field, error)
                continue
            for field, answer in zip(fields, answers, strict=True):
                self.errors.pop((uuid, field), None)
                values[field] = int(answer)
        return Reading(**values)

    def _asked_together(self, handle: Any, uuid: str) -> dict[str, int | None]:
        """What one nvmlDeviceGetFieldValues answers, each with a return value of its own."""
        wanted = [name for name in self._field_values if (uuid, name) not in self._unsupported]
        values: dict[str, int | None] = {}
        if not wanted:
            return values
        try:
            answers = self._api.nvmlDeviceGetFieldValues(handle, [self._field_values[name] for name in wanted])
        except self._api.NVMLError as error:
            for name in wanted:
                self._failed(uuid, name, error)
            return values
        for name, answer in zip(wanted, answers, strict=True):
            if answer.nvmlReturn:
                self._failed(uuid, name, self._api.NVMLError(answer.nvmlReturn))
                continue
            self.errors.pop((uuid, name), None)
            value, bits = gpu_reading.value_of(answer)
            values[name] = self._unwrap(uuid, name, value, bits) if name in gpu_reading.WRAPPING else value
        return values

    def _unwrap(self, uuid: str, name: str, value: int, bits: int) -> int:
        return self._unwrapped.setdefault((uuid, name), Unwrapped())(value, bits)

    def programs(self) -> list[tuple[str, tuple[Program, ...] | None]]:
        """Who computes on every GPU or instance, by UUID; None where it is not told, and `nulls` says why."""
        return [(uuid, self._programs(handle, uuid)) for uuid, handle in self._read_too]

    def _programs(self, handle: Any, uuid: str) -> tuple[Program, ...] | None:
        running = self._running(handle, uuid)
        if running is None:
            return None
        use = self._use_by_process(handle, uuid) if running else {}
        return tuple(Program(one.pid, one.usedGpuMemory, use.get(one.pid)) for one in running)

    def _use_by_process(self, handle: Any, uuid: str) -> dict[int, int]:
        """The share of time in which each process' kernels ran, in percent, since the last question."""
        if (uuid, "arm_sm_util_percent") in self._unsupported:
            return {}
        try:
            samples = self._api.nvmlDeviceGetProcessUtilization(handle, self._seen_us.get(uuid, 0))
        except self._api.NVMLError as error:
            if error.value in (
                self._api.NVML_SUCCESS,
                self._api.NVML_ERROR_NOT_FOUND,
            ):  # the binding's word for no rows
                self.nulls.setdefault(
                    f"{uuid}.arm_sm_util_percent", "at some time the driver had no row of any process"
                )
            else:
                self._failed(uuid, "arm_sm_util_percent", error)
            return {}
        newest = sorted(samples, key=lambda one: one.timeStamp)
        if newest:
            self._seen_us[uuid] = newest[-1].timeStamp
        return {one.pid: one.smUtil for one in newest}

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
            running = self._running(handle, device["uuid"])
            programs = None if running is None else tuple(one.pid for one in running)
            found.append((device, State(**fields, programs=programs)))
        return found

    def held_back(self) -> list[tuple[str, HeldBack]]:
        """What has held every GPU back, by UUID; see gpu_reading.field_values for the counters that are left out."""
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
        return gpu_reading.value_of(answer)[0]

    def _running(self, handle: Any, uuid: str) -> list[Any] | None:
        """The processes that compute on it; None with the reason kept where it is not told."""
        if (uuid, "programs") in self._unsupported:
            return None
        try:  # by its version: without it the binding raises, on an old driver, what is no NVMLError
            running = list(self._api.nvmlDeviceGetComputeRunningProcesses_v3(handle))
        except self._api.NVMLError as error:
            self._failed(uuid, "programs", error)
            return None
        self.errors.pop((uuid, "programs"), None)
        return running

    def _or_none(self, query: Any, *arguments: Any) -> Any:
        """The answer, or None where there is none and nobody needs to know why."""
        try:
            return query(*arguments)
        except self._api.NVMLError:
            return None

    def _field(self, handle: Any, uuid: str, field: str, query: Any) -> int | None:
        """The answer, or None with its reason kept."""
        if (uuid, field) in self._unsupported:
            return None
        try:
            answer = int(query(handle))
        except self._api.NVMLError as error:
            self._failed(uuid, field, error)
            return None
        self.errors.pop((uuid, field), None)
        return answer

    def _failed(self, uuid: str, field: str, error: Any) -> None:
        """Keep why a field is null; one that this GPU does not have is not asked for again."""
        self.errors[uuid, field] = error.value
        self.nulls.setdefault(f"{uuid}.{field}", str(error))
        if error.value in (self._api.NVML_ERROR_NOT_SUPPORTED, self._api.NVML_ERROR_FUNCTION_NOT_FOUND):
            self._unsupported.add((uuid, field))

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
    """Every GPU, as `Gpus.devices` has it; empty where there is none."""
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
