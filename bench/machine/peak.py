"""The most floating-point operations a second that a device can do, fp32: an upper bound, never an estimate.

Sources: Intel 64 and IA-32 Architectures Optimization Reference Manual, and Fog, "Instruction tables" (two units that
multiply and add, of the extension's width; before FMA one that multiplies and one that adds); Arm, Neoverse V1, V2 and
A64FX guides (four units of 128 bits, two of 512); Linux Documentation/admin-guide/pm: amd-pstate.rst, intel_pstate.rst.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from bench.machine.describe import read_line, read_text

# fp32 operations of one core in one cycle by its widest extension, widest first; a multiply-add is two of them.
_PER_CYCLE = {"avx512f": 64, "avx2": 32, "avx": 16, "sve": 64, "asimd": 32, "sse2": 8}
# Others, such as acpi-cpufreq, tell a largest clock that is not the boosted one.
_DRIVERS_THAT_KNOW = frozenset({"intel_pstate", "intel_cpufreq", "amd-pstate", "amd-pstate-epp"})
FASTEST_HZ = 6.5e9  # no processor is sold with a faster clock


def cpu_flops_per_s(cpus: Iterable[int], *, root: Path = Path("/")) -> float | None:
    """The bound of these processors together; None where their vector extension is not known.

    root  where proc and sys are found; another folder in tests
    """
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", read_text(root / "proc/cpuinfo") or "", re.MULTILINE)
    flags = found[1].split() if found else []
    per_cycle = next((count for flag, count in _PER_CYCLE.items() if flag in flags), None)
    return None if per_cycle is None else sum(per_cycle * _clock_hz(cpu, root) for cpu in cpus)


def gpu_flops_per_s(cores: int | None, clock_mhz: int | None) -> float | None:
    """The bound of a GPU's cores, a multiply-add each in every cycle; None where either is not known.

    Tensor cores are not counted: TF32 is off in both frameworks.
    """
    return None if cores is None or clock_mhz is None else 2.0 * cores * clock_mhz * 1e6


def _clock_hz(cpu: int, root: Path) -> float:
    folder = root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
    if read_line(folder / "scaling_driver") not in _DRIVERS_THAT_KNOW:
        return FASTEST_HZ
    largest_khz = read_line(folder / "cpuinfo_max_freq")
    return float(largest_khz) * 1e3 if largest_khz else FASTEST_HZ
