"""Which GPUs this worker sees, told by the driver's own library before any framework is imported.

NVML through ctypes: the standard library alone, as in an image that holds one framework and nothing else.

Source: NVML API Reference Guide, "Initialization and Cleanup" and "Device Queries".
"""

from __future__ import annotations

import ctypes

from workloads.contract import GpuAbsent

LIBRARY = "libnvidia-ml.so.1"
_TEXT_BYTES = 96  # NVML_DEVICE_UUID_V2_BUFFER_SIZE and NVML_DEVICE_NAME_V2_BUFFER_SIZE; a driver's version is shorter
_CURE = (
    "make the engine fit for GPUs (NVIDIA Container Toolkit: sudo nvidia-ctk runtime configure --runtime=docker), "
    "or ask it another way: BENCH_GPU_REQUEST=device, cdi or runtime"
)


def find(uuid: str) -> dict[str, str]:
    """The GPU of this UUID: uuid, name, driver. Raises GpuAbsent: it is not seen from here."""
    try:
        nvml = ctypes.CDLL(LIBRARY)
    except OSError:
        raise GpuAbsent(
            f"the worker sees no GPU: {uuid} was asked for, and there is no {LIBRARY} where it runs; {_CURE}"
        ) from None
    _ask(nvml, "nvmlInit_v2")
    try:
        seen = [_describe(nvml, index) for index in range(_count(nvml))]
    finally:
        nvml.nvmlShutdown()
    for gpu in seen:
        if gpu["uuid"] == uuid:
            return gpu
    others = " and ".join(gpu["uuid"] for gpu in seen) or "none"
    raise GpuAbsent(f"the worker does not see the GPU {uuid} that was asked for, but {others}; {_CURE}")


def _count(nvml: ctypes.CDLL) -> int:
    count = ctypes.c_uint()
    _ask(nvml, "nvmlDeviceGetCount_v2", ctypes.byref(count))
    return count.value


def _describe(nvml: ctypes.CDLL, index: int) -> dict[str, str]:
    device = ctypes.c_void_p()
    _ask(nvml, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(device))
    return {
        "uuid": _text(nvml, "nvmlDeviceGetUUID", device),
        "name": _text(nvml, "nvmlDeviceGetName", device),
        "driver": _text(nvml, "nvmlSystemGetDriverVersion"),
    }


def _text(nvml: ctypes.CDLL, function: str, *device: ctypes.c_void_p) -> str:
    buffer = ctypes.create_string_buffer(_TEXT_BYTES)
    _ask(nvml, function, *device, buffer, ctypes.c_uint(_TEXT_BYTES))
    return buffer.value.decode("utf-8", "replace")


def _ask(nvml: ctypes.CDLL, function: str, *arguments: object) -> None:
    """Raises GpuAbsent with NVML's own words for what it answers."""
    code = getattr(nvml, function)(*arguments)
    if code:
        words = nvml.nvmlErrorString
        words.restype = ctypes.c_char_p
        said = words(code).decode("utf-8", "replace")
        raise GpuAbsent(f"the worker sees no GPU: {function} says {said!r}; check that nvidia-smi works, then {_CURE}")
