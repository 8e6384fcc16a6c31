"""Whether a GPU runs a build's own code: rules of NVIDIA's, for the GPUs and builds that the locks hold."""

from __future__ import annotations

import pytest

from workloads.cuda import NATIVE, PTX, kernels

TENSORFLOW = ("sm_60", "sm_70", "sm_80", "sm_89", "compute_90")
PYTORCH = ("sm_75", "sm_80", "sm_86", "sm_90a", "sm_100", "sm_120", "compute_120")


@pytest.mark.parametrize(
    ("built_for", "capability", "expected"),
    [
        (TENSORFLOW, (8, 0), NATIVE),
        (TENSORFLOW, (8, 6), NATIVE),  # code for 8.0 serves 8.6
        (TENSORFLOW, (9, 0), PTX),  # Hopper
        (PYTORCH, (9, 0), NATIVE),
        (PYTORCH, (12, 0), NATIVE),
        (PYTORCH, (7, 0), PTX),  # older than anything in it
        ((), (8, 0), PTX),
    ],
)
def test_machine_code_serves_its_major_version_from_its_minor_on(
    built_for: tuple[str, ...], capability: tuple[int, int], expected: str
) -> None:
    assert kernels(built_for, capability) == expected
