"""Control groups from literal trees, NVML from a stand-in for its binding, summaries from literal readings."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TypeVar

import pyarrow.parquet as pq
import pytest
from used import used

from bench import telemetry
from bench.telemetry import cgroup, gpu_reading, programs, sampler, usage

T = TypeVar("T")
PID = 4242
V2_MOUNT = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs rw,mode=755\n"
    "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "36 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
)
UNIFIED_MOUNT = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
V1_GROUPS = "9:name=systemd:/docker/c1\n4:memory:/docker/c1\n2:cpu,cpuacct:/docker/c1\n"
V1_FILES = {
    "cpu,cpuacct/docker/c1/cpuacct.usage": "1234567890\n",
    "cpu,cpuacct/docker/c1/cpu.stat": "nr_periods 40\nnr_throttled 7\nthrottled_time 900\n",
    "cpu,cpuacct/docker/c1/cgroup.procs": f"{PID}\n4243\n",
    "memory/docker/c1/memory.usage_in_bytes": "5000\n",
    "memory/docker/c1/memory.max_usage_in_bytes": "9000\n",
}
PRESSURE = "some avg10=52.25 avg60=18.07 avg300=4.70 total=35179265\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"
V2_FILES = {
    "system.slice/docker-c1.scope/cpu.stat": (
        "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\nnr_periods 3\nnr_throttled 2\nthrottled_usec 8\n"
    ),
    "system.slice/docker-c1.scope/memory.current": "5000\n",
    "system.slice/docker-c1.scope/memory.peak": "9000\n",
    "system.slice/docker-c1.scope/cpu.pressure": PRESSURE,
    "system.slice/docker-c1.scope/memory.pressure": PRESSURE.replace("35179265", "12"),
    "system.slice/docker-c1.scope/io.pressure": PRESSURE.replace("35179265", "34"),
    "system.slice/docker-c1.scope/cgroup.procs": f"{PID}\n",
}


def machine(root: Path, *, mounts: str, groups: str, files: dict[str, str], own: str = "0::/user.slice/me\n") -> Path:
    """A machine's /proc and control groups, written under `root`."""
    written = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    written |= {"proc/self/mountinfo": mounts, "proc/self/cgroup": own, f"proc/{PID}/cgroup": groups}
    for name, text in written.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    return machine(tmp_path, mounts=V1_MOUNTS, groups=V1_GROUPS, files=V1_FILES)


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    return machine(tmp_path, mounts=V2_MOUNT, groups="0::/system.slice/docker-c1.scope\n", files=V2_FILES)


@pytest.fixture
def hybrid(tmp_path: Path) -> Path:
    files = {**V1_FILES, "unified/docker/c1/cpu.pressure": PRESSURE, "unified/docker/c1/cpu.stat": "usage_usec 5\n"}
    return machine(tmp_path, mounts=V1_MOUNTS + UNIFIED_MOUNT, groups=V1_GROUPS + "0::/docker/c1\n", files=files)


def test_v1_has_no_pressure_and_says_so(v1: Path) -> None:
    group = cgroup.ControlGroup(PID, root=v1)
    assert group.read() == usage.Reading(1234567890, 5000, 9000, 7, None, None)
    pressures = ("pressure_cpu_us", "pressure_memory_us", "pressure_io_us")
    assert group.nulls == dict.fromkeys(pressures, "no unified control group of its own")
    assert cgroup.version(root=v1) == "v1"
    group.close()


def test_v2_counts_microseconds_and_gives_nanoseconds(v2: Path) -> None:
    group = cgroup.ControlGroup(PID, root=v2)
    assert group.read() == usage.Reading(1234567000, 5000, 9000, 2, 35179265, None, 12, 34)
    assert group.nulls == {}
    assert cgroup.version(root=v2) == "v2"
    group.close()


def test_hybrid_takes_pressure_from_the_unified_mount_and_the_rest_from_v1(hybrid: Path) -> None:
    group = cgroup.ControlGroup(PID, root=hybrid)
    assert group.read() == usage.Reading(1234567890, 5000, 9000, 7, 35179265, None)
    assert cgroup.version(root=hybrid) == "hybrid"
    group.close()


def test_no_control_groups_mounted_is_no_version(tmp_path: Path) -> None:
    assert cgroup.version(root=machine(tmp_path, mounts="", groups="", files={})) is None


def test_a_kernel_without_memory_peak_leaves_it_null_with_the_reason(v2: Path) -> None:
    folder = v2 / "sys/fs/cgroup/system.slice/docker-c1.scope"
    (folder / "memory.peak").unlink()
    (folder / "cpu.stat").write_text("usage_usec 1\nuser_usec 1\nsystem_usec 0\n")
    group = cgroup.ControlGroup(PID, root=v2)
    assert group.read()[:4] == (1000, 5000, None, None)
    assert group.nulls["memory_peak_bytes"].endswith("memory.peak: No such file or directory")
    assert group.nulls["throttled"].endswith("cpu.stat has no nr_throttled")
    group.close()


def test_the_group_at_the_top_is_the_whole_machine_and_is_not_read(tmp_path: Path) -> None:
    root = machine(tmp_path, mounts=V2_MOUNT, groups="0::/\n", files={"cpu.stat": "usage_usec 99\n"})
    group = cgroup.ControlGroup(PID, root=root)
    assert group.read(switches=True) == usage.Reading()
    assert set(group.nulls) == set(usage.Reading._fields)


def test_a_group_shared_with_this_process_is_not_read(tmp_path: Path) -> None:
    path = "0::/system.slice/docker-c1.scope\n"
    root = machine(tmp_path, mounts=V2_MOUNT, groups=path, own=path, files=V2_FILES)
    assert cgroup.ControlGroup(PID, root=root).read() == usage.Reading()


def test_a_mount_that_shows_part_of_the_tree_takes_that_part_off_the_path(tmp_path: Path) -> None:
    mounts = "30 24 0:26 /outer /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    root = machine(tmp_path, mounts=mounts, groups="0::/outer/system.slice/docker-c1.scope\n", files=V2_FILES)
    assert cgroup.directories(PID, root=root) == {"": root / "sys/fs/cgroup/system.slice/docker-c1.scope"}


def test_a_group_outside_of_this_namespace_is_not_guessed(tmp_path: Path) -> None:
    root = machine(tmp_path, mounts=V2_MOUNT, groups="0::/../../elsewhere\n", files={})
    assert cgroup.directories(PID, root=root) == {}


def test_the_processes_of_an_arm_are_its_groups_and_its_first_one_always(v1: Path, tmp_path: Path) -> None:
    group = cgroup.ControlGroup(PID, root=v1)
    assert set(group.pids()) == {PID, 4243}
    assert group.unlisted is None
    group.close()


def test_a_group_that_cannot_be_seen_says_that_its_processes_cannot_be_told(tmp_path: Path) -> None:
    root = machine(tmp_path, mounts=V2_MOUNT, groups="0::/../../elsewhere\n", files={})
    group = cgroup.ControlGroup(PID, root=root)
    assert group.pids() == [PID]
    assert group.unlisted == "no control group of an arm can be seen, and so not who is in it"


def test_counters_follow_their_files(v2: Path) -> None:
    group = cgroup.ControlGroup(PID, root=v2)
    (v2 / "sys/fs/cgroup/system.slice/docker-c1.scope/memory.current").write_text("777\n")
    assert group.read().memory_bytes == 777
    group.close()


@pytest.mark.parametrize("layout", ["v1", "v2"])
def test_a_glance_sees_cpu_and_memory_as_they_are_and_the_rest_seldom(
    layout: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = cgroup.ControlGroup(PID, root=request.getfixturevalue(layout))
    whole = group.read()
    assert group.parse(group.glance()) == usage.Reading(whole.cpu_ns, whole.memory_bytes)
    monkeypatch.setattr(cgroup, "monotonic_ns", lambda: 2**62)
    assert group.parse(group.glance()) == whole
    group.close()


def test_a_glance_at_nonsense_is_null_and_ends_nothing(v2: Path) -> None:
    group = cgroup.ControlGroup(PID, root=v2)
    group.read()
    (v2 / "sys/fs/cgroup/system.slice/docker-c1.scope/memory.current").write_text("max\n")
    assert group.parse(group.glance()) == usage.Reading(1234567000, None)
    assert "invalid literal" in group.nulls["memory_bytes"]
    group.close()


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ENOENT])
def test_a_removed_group_is_the_end_of_its_arm(v2: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    group = cgroup.ControlGroup(PID, root=v2)

    def removed(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cgroup, "pread", removed)
    with pytest.raises(usage.Gone):
        group.read()
    group.close()


def test_another_error_nulls_its_field_alone(v2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = cgroup.ControlGroup(PID, root=v2)
    pread = os.pread

    def unsupported(descriptor: int, size: int, offset: int) -> bytes:
        text = pread(descriptor, size, offset)
        if b"avg10" in text:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return text

    monkeypatch.setattr(cgroup, "pread", unsupported)
    reading = group.read()
    assert reading.pressure_cpu_us is None
    assert reading.cpu_ns == 1234567000
    assert "not supported" in group.nulls["pressure_cpu_us"]
    group.close()


def test_switches_are_summed_over_threads_and_kept_when_a_thread_ends(v1: Path) -> None:
    for thread, count in (("4242", 3), ("4250", 4)):
        folder = v1 / f"proc/{PID}/task/{thread}"
        folder.mkdir(parents=True)
        (folder / "status").write_text(f"Name:\tw\nvoluntary_ctxt_switches:\t9\nnonvoluntary_ctxt_switches:\t{count}\n")
    group = cgroup.ControlGroup(PID, root=v1)
    assert group.read(switches=True).involuntary_switches == 7
    (v1 / f"proc/{PID}/task/4250/status").unlink()
    (v1 / f"proc/{PID}/task/4250").rmdir()
    assert group.read(switches=True).involuntary_switches == 7
    assert group.read().involuntary_switches is None
    group.close()


@pytest.mark.parametrize("scope", usage.SCOPES)
def test_an_arm_that_never_was_is_gone(scope: str) -> None:
    with pytest.raises(usage.Gone):
        sampler.reader(2**22 + 1, scope)


# ---------------------------------------------------------------- NVML


def test_without_the_library_nothing_is_imported_and_nothing_is_said() -> None:
    script = """
import sys
from bench.telemetry import nvml, sampler
nvml.LIBRARY = "libnvidia-ml-absent.so.1"
assert (nvml.source(), nvml.devices()) == ("none", [])
heavy = {"pynvml", "pyarrow", "pandas", "numpy", "docker", "click", "rich"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ---------------------------------------------------------------- what is kept


def parquet(tmp_path: Path, *rows: dict[str, object]) -> Path:
    file = tmp_path / "block.csv"
    lines = [",".join(str(row.get(name, "")) for name in telemetry.COLUMNS) for row in rows]
    file.write_text("\n".join([",".join(telemetry.COLUMNS), *lines]) + "\n")
    return telemetry._to_parquet(file, tmp_path / "block.parquet", {"source": "none", "hz": 10})


def test_a_summary_takes_growth_from_counters_and_the_highest_from_levels(tmp_path: Path) -> None:
    arm = {"arm": '"tf ""a"", b"'}
    first = {"memory_bytes": 100, "memory_peak_bytes": 250, "throttled": 4, "pressure_cpu_us": 1000}
    path = parquet(
        tmp_path,
        {"t_ns": 1_000_000_000, **arm, "cpu_ns": 5_000_000_000, **first, "involuntary_switches": 7},
        {"t_ns": 1_000_000_100, "gpu": "GPU-0", "gpu_util_percent": 97, "power_mw": 350_000},
        {"t_ns": 1_000_000_200, **arm, "gpu": "GPU-0", "arm_memory_bytes": 7},
        {"t_ns": 1_000_000_300, "package_energy_uj": 12},
        {"t_ns": 2_000_000_000, **arm, "cpu_ns": 5_250_000_000, "memory_bytes": 300, "throttled": 4,
         "pressure_cpu_us": 1500},
        {"t_ns": 3_000_000_000, **arm, "cpu_ns": 6_000_000_000, "memory_bytes": 200, "throttled": 6,
         "pressure_cpu_us": 4_001_000, "involuntary_switches": 9},
        {"t_ns": 3_000_000_000, "arm": "pt", "cpu_ns": 77},
    )  # fmt: skip
    found = used(path)
    assert found['tf "a", b'] == {
        "samples": 3, "seconds": 2.0, "cpu_s": 1.0, "cpu_percent": 50.0, "peak_memory_bytes": 300,
        "throttled": 2, "pressure_cpu_s": 4.0, "involuntary_switches": 2,
    }  # fmt: skip
    assert found["pt"] == {
        "samples": 1, "seconds": 0.0, "cpu_s": None, "cpu_percent": None, "peak_memory_bytes": None,
        "throttled": None, "pressure_cpu_s": None, "involuntary_switches": None,
    }  # fmt: skip
    assert len(found) == 2


def test_what_was_not_read_is_null_in_the_file_and_never_zero(tmp_path: Path) -> None:
    (row,) = pq.read_table(parquet(tmp_path, {"t_ns": 5, "arm": "pt", "cpu_ns": 0})).to_pylist()
    assert row.pop("cpu_ns") == 0
    assert (row.pop("t_ns"), row.pop("arm")) == (5, "pt")
    assert set(row.values()) == {None}


def test_a_block_of_no_readings_is_a_file_of_no_rows(tmp_path: Path) -> None:
    path = parquet(tmp_path)
    assert used(path) == {}
    assert telemetry.meta(path) == {"schema": telemetry.SCHEMA, "source": "none", "hz": 10}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["block.parquet"]


@pytest.mark.parametrize("hz", [0, -1, 101, float("nan")])
def test_a_rate_that_cannot_be_had_is_refused(tmp_path: Path, hz: float) -> None:
    with pytest.raises(ValueError, match="readings a second"):
        telemetry.Sampler(tmp_path, hz=hz)


def test_names_that_would_break_a_file_are_refused(tmp_path: Path) -> None:
    sampler = telemetry.Sampler(tmp_path)
    for name in ("", "..", "a/b", ".hidden", "a\nb"):
        with pytest.raises(ValueError, match="plain file name"):
            sampler.flush_block(name)
    with pytest.raises(ValueError, match="no name for an arm"):
        sampler.watch("a\nb", os.getpid(), "process")
    with pytest.raises(ValueError, match="scope 'pod' is unknown"):
        sampler.watch("a", os.getpid(), "pod")


def test_every_column_is_documented() -> None:
    for kind in (usage.Reading, gpu_reading.Reading, programs.Share):
        for field in kind._fields:
            assert re.search(rf"\b{field}\b", kind.__doc__ or ""), field
