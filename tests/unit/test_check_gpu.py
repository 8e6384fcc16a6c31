"""What `bench check` finds of GPUs, from a driver that stands in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pynvml
import pytest
from checked import Driver, sound

from bench.machine.check import gpu as check_gpu

if TYPE_CHECKING:
    from bench.machine.check.findings import Finding


def gpu(root: Path, **changes: Any) -> dict[str, Finding]:
    return {one.name: sound(one) for one in check_gpu.findings(root, api=Driver(**changes))}


def test_a_gpu_that_is_well_is_ok_but_for_what_nvml_cannot_tell(tmp_path: Path) -> None:
    found = gpu(tmp_path)
    levels = {name: one.level for name, one in found.items()}
    assert levels == {
        "gpu0_persistence": "ok", "gpu0_clocks": "unknown", "gpu0_temperature": "ok", "gpu0_programs": "ok",
        "gpu0_mig": "ok",
    }  # fmt: skip
    assert found["gpu0_clocks"].cure == "sudo nvidia-smi -i 0 --lock-gpu-clocks=tdp,tdp"


NO = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
LOST = pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)


@pytest.mark.parametrize(
    ("call", "answer", "name", "level", "words"),
    [
        ("PersistenceMode", 0, "persistence", "warn", "off"),
        ("PersistenceMode", NO, "persistence", "unknown", "Not Supported"),
        ("CurrentClocksThrottleReasons", 0x40, "clocks", "fail", "slowed down"),
        ("CurrentClocksThrottleReasons", NO, "clocks", "unknown", "Not Supported"),
        ("Temperature", 76, "temperature", "warn", "76 °C, slows itself at 90 °C"),
        ("TemperatureThreshold", NO, "temperature", "unknown", "slowdown_c: Not Supported"),
        (
            "ComputeRunningProcesses_v3",
            [SimpleNamespace(pid=5), SimpleNamespace(pid=6)],
            "programs",
            "fail",
            "2: train, one",
        ),
        ("ComputeRunningProcesses_v3", LOST, "programs", "unknown", "GPU is lost"),
        ("MigMode", [1, 1], "mig", "note", "on"),
        ("MigMode", NO, "mig", "ok", "not a GPU that can be partitioned"),
        ("MigMode", LOST, "mig", "unknown", "GPU is lost"),
    ],
)
def test_each_ill_of_a_gpu_is_found(tmp_path: Path, call: str, answer: Any, name: str, level: str, words: str) -> None:
    (tmp_path / "proc/5").mkdir(parents=True)
    (tmp_path / "proc/5/comm").write_text("train\n")
    finding = gpu(tmp_path, **{f"DeviceGet{call}": answer})[f"gpu0_{name}"]
    assert finding.level == level
    assert words in finding.found


def test_a_replayed_gpu_is_none_and_a_driver_that_fails_is_unknown(tmp_path: Path) -> None:
    assert gpu(tmp_path, DeviceGetName="STUB-GPU (replay)") == {}
    (finding,) = gpu(tmp_path, Init=pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)).values()
    assert (finding.name, finding.level) == ("gpu", "unknown")
