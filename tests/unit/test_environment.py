"""What a description holds, what it never holds, and how the CPUs are divided."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

import bench
from bench import records
from bench.machine import describe

CPUINFO = """\
processor\t: {number}
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu sse2 ht hypervisor avx avx2 fma avx512f amx_tile amx_bf16 f16c svm

"""
V2_MOUNT = "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
FILES = {
    "proc/cpuinfo": CPUINFO.format(number=0) + CPUINFO.format(number=1),
    "proc/meminfo": "MemTotal:       24684092 kB\nMemFree: 1 kB\n",
    "proc/loadavg": "0.46 1.00 2.00 1/2 3\n",
    "proc/self/mountinfo": V2_MOUNT,
    "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
    "sys/devices/system/cpu/online": "0-2,8\n",
    "sys/devices/system/cpu/smt/active": "1\n",
    "sys/devices/system/cpu/intel_pstate/no_turbo": "1\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
    **{f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id": "0\n" for cpu in range(4)},
    **{f"sys/devices/system/cpu/cpu{cpu}/topology/core_id": f"{cpu % 2}\n" for cpu in range(4)},
    **{
        f"sys/devices/system/cpu/cpu0/cache/index{index}/{name}": f"{value}\n"
        for index, cache in enumerate([(1, "Data", "48K"), (1, "Instruction", "32K"), (3, "Unified", "266240K")])
        for name, value in zip(("level", "type", "size"), cache, strict=True)
    },
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_machine_is_described_from_its_files(root: Path) -> None:
    found = describe.describe(device="cpu", docker_engine="20.10.24", root=root)
    usable = len(os.sched_getaffinity(0))
    assert found["cpu"] == {
        "model": "Intel(R) Xeon(R) Processor",
        "logical": 4,
        "physical": 2,
        "usable": usable,
        "flags": ["amx_bf16", "amx_tile", "avx", "avx2", "avx512f", "f16c", "fma"],
        "caches": {"L1d": 49152, "L1i": 32768, "L3": 272629760},
        "governor": "powersave",
        "boost": False,
        "smt": True,
    }
    expected = {
        "device": "cpu",
        "distribution": "Debian GNU/Linux 12 (bookworm)",
        "memory_bytes": 24684092 * 1024,
        "virtualization": "unknown",
        "cgroup": "v2",
        "clocksource": "tsc",
        "load_average_1min": 0.46,
        "docker": "20.10.24",
        "bench": bench.__version__,
    }
    assert expected.items() <= found.items()


def test_what_cannot_be_read_is_null(tmp_path: Path) -> None:
    found = describe.describe(device="cpu", root=tmp_path)
    cpu = found.pop("cpu")
    assert {name for name, value in cpu.items() if value is not None} == {"usable"}
    absent = ("distribution", "memory_bytes", "virtualization", "container", "cgroup", "clocksource", "docker")
    assert [found[name] for name in (*absent, "load_average_1min")] == [None] * 8
    assert len(records.machine_key({**found, "cpu": cpu})) == 16


def test_this_machine_is_described_in_plain_json() -> None:
    found = describe.describe(device="cpu")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["cpu"]["logical"] >= found["cpu"]["usable"] >= 1
    assert found["memory_bytes"] > 2**28
    assert found["kernel"] == os.uname().release


def test_no_name_of_host_user_or_folder_is_described(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "kept-to-ourselves"
    real = os.uname()
    named = os.uname_result((real.sysname, secret, real.release, secret, real.machine))
    monkeypatch.setattr(os, "uname", lambda: named)
    for variable in ("HOME", "USER", "LOGNAME", "HOSTNAME"):
        monkeypatch.setenv(variable, secret)
    folder = tmp_path / secret
    folder.mkdir()
    monkeypatch.chdir(folder)
    for description in (describe.describe(device="cpu"), describe.describe(device="cpu", root=root)):
        text = json.dumps(description)
        assert secret not in text
        assert str(Path(bench.__file__).parent) not in text
        assert str(Path.home()) not in text


# ---------------------------------------------------------------- pooling


def description(**changes: Any) -> dict[str, Any]:
    plain = {
        "architecture": "x86_64",
        "kernel": "6.1.0-13-amd64",
        "cpu": {"model": "M", "logical": 8, "physical": 4, "usable": 8},
        "memory_bytes": 16 * 2**30 + 5_000_000,
        "gpus": [{"name": "A", "uuid": "GPU-1"}, {"name": "B", "uuid": "GPU-2"}],
        "load_average_1min": 0.1,
    }
    return {**plain, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"load_average_1min": 7.0},
        {"kernel": "6.8.0"},
        {"memory_bytes": 16 * 2**30 - 90_000_000},
        {"gpus": [{"name": "B", "uuid": "GPU-9"}, {"name": "A", "uuid": "GPU-8"}]},
    ],
)
def test_a_machine_keeps_its_key_through_what_does_not_matter(changes: dict[str, Any]) -> None:
    assert records.machine_key(description(**changes)) == records.machine_key(description())


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": "5.10.0"},
        {"cpu": {"model": "N", "logical": 8, "physical": 4}},
        {"cpu": {"model": "M", "logical": 8, "physical": 8}},
        {"memory_bytes": 32 * 2**30},
        {"memory_bytes": None},
        {"gpus": []},
        {"architecture": "aarch64"},
    ],
)
def test_another_machine_has_another_key(changes: dict[str, Any]) -> None:
    assert records.machine_key(description(**changes)) != records.machine_key(description())
