"""A GPU for a worker: how the engine is asked for it, what its refusals mean, and whether it is seen from inside.

What is asked for is one GPU by its UUID, as `count=1` would be whichever the engine calls 0. Three ways lead there:
`device`   the engine's own (docker run --gpus): a device request without a driver's name
`cdi`      the Container Device Interface: the device nvidia.com/gpu=<UUID> of a specification on the engine's machine
`runtime`  the runtime named nvidia, told by NVIDIA_VISIBLE_DEVICES

Sources: Docker Engine API v1.41 and later, HostConfig.DeviceRequests; NVIDIA Container Toolkit, "Docker Specialized
Configurations" and "Support for Container Device Interface".
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from docker.types import DeviceRequest

from bench.errors import EnvironmentUnavailable, InputError, WorkerFailed
from bench.launch.group import Group
from bench.matrix.need import Need
from workloads.contract import STUB, Cell, Named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.launch import GpuRequest, Progress, Provider

VARIABLE = "BENCH_GPU_REQUEST"
WAYS = ("device", "cdi", "runtime")
RUNTIME, CDI = "nvidia", "nvidia.com/gpu="
LOOK_LIMIT_S = 120.0  # without persistence mode the driver starts anew

_TOOLKIT = (
    "install nvidia-container-toolkit, run sudo nvidia-ctk runtime configure --runtime=docker, then restart the engine"
)
_GENERATE = "sudo nvidia-ctk cdi generate --device-name-strategy=uuid --output=/etc/cdi/nvidia.yaml"
# What engines and NVIDIA's runtime say, and what that means.
_SENTENCES = {
    r'could not select device driver "cdi"': (
        f"the Docker engine was asked for the GPU by CDI, which it does not know or has not switched on; "
        f"choose {VARIABLE}=device, or switch its feature cdi on (Docker 25 and later)"
    ),
    r"could not select device driver": f"the Docker engine has no GPU runtime; {_TOOLKIT}",
    r"(?i)unknown (or invalid )?runtime( name| specified)?:? \"?nvidia": (
        f"the Docker engine has no runtime named nvidia; {_TOOLKIT}"
    ),
    r"(?i)CDI device": f"the Docker engine knows no CDI device of this GPU; {_GENERATE}, or choose {VARIABLE}=device",
    r"nvidia-container-(cli|runtime)[^\\\n]*": (
        "NVIDIA's container runtime could not give the GPU ({said}); check nvidia-smi on the engine's machine"
    ),
}


def way(uuid: str, info: Mapping[str, Any]) -> str:
    """Which of WAYS this engine is asked in: BENCH_GPU_REQUEST, else by what the engine says of itself.

    By CDI where it has found this very device (Docker 28.3 and later), by the runtime where that is its default.

    info    the engine's answer to `docker info`
    raises  InputError: the variable names none of them
    """
    if asked := os.environ.get(VARIABLE):
        if asked not in WAYS:
            raise InputError(f'{VARIABLE}: "{asked}" is unknown; choose {", ".join(WAYS[:-1])} or {WAYS[-1]}')
        return asked
    if any(device.get("ID") == f"{CDI}{uuid}" for device in info.get("DiscoveredDevices") or []):
        return "cdi"
    return "runtime" if info.get("DefaultRuntime") == RUNTIME else "device"


def variables(asked: GpuRequest | None) -> dict[str, str]:
    """What a container's environment says to NVIDIA's runtime: which GPU, or none where it is the engine's default.

    An image with CUDA says `all` by itself. With CDI the runtime has nothing to add.
    """
    if asked is None or asked.way == "cdi":
        return {"NVIDIA_VISIBLE_DEVICES": "void"}
    return {"NVIDIA_VISIBLE_DEVICES": asked.uuid, "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}


def host_options(asked: GpuRequest | None) -> dict[str, Any]:
    """What a container's host configuration says to the engine."""
    if asked is None:
        return {}
    if asked.way == "runtime":
        return {"runtime": RUNTIME}
    if asked.way == "cdi":
        return {"device_requests": [DeviceRequest(driver="cdi", device_ids=[f"{CDI}{asked.uuid}"])]}
    return {"device_requests": [DeviceRequest(device_ids=[asked.uuid], capabilities=[["gpu"]])]}


def sentence(text: str) -> str | None:
    """What an engine's error about a GPU means, with its remedy; None for any other error."""
    for pattern, words in _SENTENCES.items():
        if found := re.search(pattern, text):
            return words.format(said=found[0].strip())
    return None


def look(launcher: Provider, progress: Progress) -> None:
    """Before a run: start a worker that needs no framework, and let it find the GPU that is asked for.

    raises  EnvironmentUnavailable: it cannot be started, or does not see that GPU
    """
    launcher.provide([Need.of(_STUB)], progress)
    with Group() as group:
        try:
            channel = launcher.start(cell=_STUB, cpus=frozenset(os.sched_getaffinity(0)), padding=0)
            group.add(STUB, channel)
            group.ask(
                STUB, "open", limit_s=LOOK_LIMIT_S, cell=_STUB.to_json(), framework=STUB, seed=0, data=None,
                cpus=[], gpu=channel.gpu.uuid if channel.gpu else None,
            )  # fmt: skip
        except WorkerFailed as failure:
            raise EnvironmentUnavailable(f"device cuda: {failure}") from None


_STUB = Cell(workload=Named.of(STUB, {"bytes": 64}), framework=Named(STUB), device="cuda")
