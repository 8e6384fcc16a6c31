"""FLOPs of a step by hand, and bounds of devices from literal machines."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from bench.machine import peak
from bench.measure.stretch import step_flops
from workloads.contract import Cell, Named
from workloads.linear_regression import spec as linear
from workloads.mnist_cnn import spec as cnn

# By hand, multiply-adds of one image: 26·26·32·9 + 11·11·64·9·32 + 1600·128 + 128·10.
FORWARD = 194_688 + 2_230_272 + 204_800 + 1_280
FIRST_LAYER = 194_688


def test_linear_regression_multiplies_every_feature_once_forward_and_once_for_its_gradient() -> None:
    parameters = linear.parameters({"n": 100, "d": 3})
    assert linear.flops(parameters, batch_size=10, phase="infer") == 2 * 10 * 3
    assert linear.flops(parameters, batch_size=10, phase="train") == 2 * (2 * 10 * 3)
    classic = linear.parameters({"preset": "classic"})
    assert linear.flops(classic, batch_size=5, phase="train") == 20


def test_the_network_counts_every_layer_and_no_gradient_of_its_images() -> None:
    assert cnn.flops(cnn.parameters({}), batch_size=1, phase="infer") == 2 * FORWARD == 5_262_080
    train = cnn.flops(cnn.parameters({}), batch_size=32, phase="train")
    assert train == 32 * 2 * (3 * FORWARD - FIRST_LAYER) == 32 * 15_396_864


def test_a_workload_that_counts_no_flops_has_none() -> None:
    stub = Cell(workload=Named.of("stub", {"bytes": 64}), framework=Named("stub"))
    assert step_flops(stub) is None
    regression = Cell(workload=Named.of("linear_regression", linear.parameters({})), framework=Named("pytorch"))
    assert step_flops(regression) == 2 * 2 * 64 * 64


def machine(root: Path, flags: str, **cpufreq: str) -> Path:
    """A machine of one kind of processor, with the files of cpu0's cpufreq."""
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(f"processor\t: 0\n{flags}\n\nprocessor\t: 1\n{flags}\n")
    folder = root / "sys/devices/system/cpu/cpu0/cpufreq"
    folder.mkdir(parents=True)
    for name, text in cpufreq.items():
        (folder / name).write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("flags", "per_cycle"),
    [
        ("flags\t\t: fpu sse2 avx avx2 fma avx512f", 64),
        ("flags\t\t: fpu sse2 avx avx2 fma", 32),
        ("flags\t\t: fpu sse2 avx", 16),
        ("flags\t\t: fpu sse2", 8),
        ("Features\t: fp asimd", 32),
        ("Features\t: fp asimd sve", 64),
    ],
)
def test_the_widest_extension_decides(tmp_path: Path, flags: str, per_cycle: int) -> None:
    assert peak.cpu_flops_per_s([0], root=machine(tmp_path, flags)) == per_cycle * peak.FASTEST_HZ


def test_a_driver_that_knows_the_boosted_clock_is_believed(tmp_path: Path) -> None:
    root = machine(tmp_path, "flags\t: avx2", scaling_driver="intel_pstate", cpuinfo_max_freq="4500000")
    assert peak.cpu_flops_per_s([0], root=root) == pytest.approx(32 * 4.5e9)
    assert peak.cpu_flops_per_s([0, 1], root=root) == pytest.approx(32 * 4.5e9 + 32 * peak.FASTEST_HZ)


def test_a_driver_that_tells_the_nominal_clock_is_not(tmp_path: Path) -> None:
    root = machine(tmp_path, "flags\t: avx2", scaling_driver="acpi-cpufreq", cpuinfo_max_freq="2000000")
    assert peak.cpu_flops_per_s([0], root=root) == 32 * peak.FASTEST_HZ


def test_a_processor_of_an_unknown_kind_has_no_bound(tmp_path: Path) -> None:
    assert peak.cpu_flops_per_s([0], root=machine(tmp_path, "isa\t: rv64gcv")) is None
    assert peak.cpu_flops_per_s([0], root=tmp_path / "nowhere") is None


def test_a_gpu_multiplies_and_adds_in_every_core_and_cycle() -> None:
    assert peak.gpu_flops_per_s(16896, 1980) == pytest.approx(66.9e12, rel=1e-3)  # an H100 SXM, as its data sheet says
    assert peak.gpu_flops_per_s(None, 1980) is None
    assert peak.gpu_flops_per_s(16896, None) is None


def test_this_machine_is_below_its_bound() -> None:
    bound = peak.cpu_flops_per_s([0])
    if bound is None:
        pytest.skip("this processor's extensions are not known")
    matrix = np.ones((512, 512), np.float32)
    _ = matrix @ matrix
    before, cpu_before = time.perf_counter(), time.process_time()
    for _ in range(5):
        _ = matrix @ matrix
    wall_s, cpu_s = time.perf_counter() - before, time.process_time() - cpu_before
    assert 5 * 2 * 512**3 / max(wall_s, cpu_s) < bound
