"""NVML's own binding over a stub library that replays traces: values, units, wraps, errors, and what is made of them.

Nothing here is a measurement of a GPU.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nvml_stub as nvml
import pynvml
import pytest

from bench.telemetry import trace
from bench.telemetry.gpu_reading import Reading, power_is

OTHER = "GPU-53545542-0000-4000-8000-00000000ffff"
PART = "MIG-53545542-0000-4000-8000-000000000001"
# Two readings some seconds apart, then who computes; the library's clock begins at the first line.
READ = """
import json, sys, time
from bench.telemetry import nvml
gpus = nvml.Gpus()
first, _ = list(gpus.read()), time.sleep(float(sys.argv[1]))
second = list(gpus.read())
print(json.dumps({
    "source": gpus.source, "devices": gpus.devices, "nulls": gpus.nulls,
    "first": {uuid: one._asdict() for uuid, one in first}, "second": {uuid: one._asdict() for uuid, one in second},
    "programs": gpus.programs(),
}))
"""
FULL: dict[str, object] = {
    "time_s": 0, "memory_total_bytes": 80 * 2**30, "architecture": 9, "gpu_util_percent": 97,
    "gpu_memory_util_percent": 41, "gpu_memory_used_bytes": 3 * 2**30, "gpu_memory_reserved_bytes": 2**29,
    "power_mw": 310_500, "power_average_mw": 309_900, "power_instant_mw": 340_000, "energy_mj": 2**41 + 1,
    "sm_clock_mhz": 1980, "memory_clock_mhz": 2619, "temperature_c": 61, "memory_temperature_c": 77,
    "clock_reasons": 0x4, "thermal_ns": 5, "power_cap_ns": 6_000_000_000, "board_limit_ns": 7, "sync_boost_ns": 8,
    "pcie_tx_bytes": 4_000_000_000, "pcie_rx_bytes": 9, "nvlink_tx_kib": 2**33, "nvlink_rx_kib": 11,
    "ecc_corrected": 1, "ecc_uncorrected": 0,
}  # fmt: skip


def replayed(folder: Path, *, seconds: float = 0.0, **variables: str) -> dict[str, Any]:
    """What the real binding reads of the stub in this folder."""
    told = os.environ | {"LD_LIBRARY_PATH": str(folder), **variables}
    command = [sys.executable, "-c", READ, str(seconds)]
    done = subprocess.run(command, env=told, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def traced(folder: Path, tmp_path: Path, *rows: dict[str, object], seconds: float = 0.0, **more: str) -> dict[str, Any]:
    trace = nvml.write_trace(tmp_path / "t.csv", rows)
    return replayed(folder, seconds=seconds, NVML_STUB_TRACE=str(trace), **more)


@pytest.mark.first
def test_a_trace_is_replayed_through_the_real_binding_and_says_what_it_is(nvml_stub: Path) -> None:
    found = replayed(nvml_stub, seconds=1.2)
    assert found["source"] == "replay"
    (device,) = found["devices"]
    assert device == {
        "index": 0, "uuid": nvml.UUID, "name": nvml.NAME, "driver": nvml.DRIVER, "memory_bytes": 85_899_345_920,
        "architecture": None, "power_is": None, "instances": [],
    }  # fmt: skip
    columns = ("gpu_util_percent", "gpu_memory_used_bytes", "power_mw", "energy_mj", "sm_clock_mhz", "temperature_c")
    assert tuple(map(found["first"][nvml.UUID].get, columns)) == (0, 524_288_000, 70_000, 1_000_000, 345, 31)
    assert tuple(map(found["second"][nvml.UUID].get, columns)) == (97, 2_147_483_648, 310_000, 1_070_000, 1980, 38)


@pytest.mark.first
def test_every_field_comes_through_in_its_unit(nvml_stub: Path, tmp_path: Path) -> None:
    found = traced(nvml_stub, tmp_path, FULL)
    assert found["first"][nvml.UUID] == {name: FULL[name] for name in Reading._fields}
    assert found["devices"][0]["power_is"] == "average of 1 s"
    assert found["nulls"] == {f"{nvml.UUID}.programs": "Not Supported"}


def test_a_counter_of_32_bits_that_wraps_goes_on_and_one_of_64_is_as_it_is(nvml_stub: Path, tmp_path: Path) -> None:
    later = FULL | {"time_s": 0.5, "pcie_tx_bytes": 4_000_000_000 + 700_000_000, "nvlink_tx_kib": 2**34}
    found = traced(nvml_stub, tmp_path, FULL, later, seconds=0.8)
    assert 4_700_000_000 > 2**32
    assert found["second"][nvml.UUID]["pcie_tx_bytes"] == 4_700_000_000
    assert found["second"][nvml.UUID]["nvlink_tx_kib"] == 2**34


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (pynvml.NVML_ERROR_NOT_SUPPORTED, "Not Supported"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "Insufficient Permissions"),
        (pynvml.NVML_ERROR_GPU_IS_LOST, "GPU is lost"),
        (pynvml.NVML_ERROR_UNKNOWN, "Unknown Error"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "Driver Not Loaded"),
    ],
)
def test_what_fails_on_the_way_is_null_with_the_drivers_word_and_the_rest_goes_on(
    nvml_stub: Path, tmp_path: Path, code: int, words: str
) -> None:
    broken = ("power_mw", "power_instant_mw", "energy_mj", "pcie_rx_bytes")
    later = FULL | {"time_s": 0.4} | dict.fromkeys(broken, f"!{code}")
    found = traced(nvml_stub, tmp_path, FULL, later, seconds=0.6)
    before, after = found["first"][nvml.UUID], found["second"][nvml.UUID]
    assert {before[name] is None for name in broken} == {False}
    assert {after[name] for name in broken} == {None}
    assert {name: after[name] for name in after if name not in broken} == {
        name: before[name] for name in before if name not in broken
    }
    assert {found["nulls"][f"{nvml.UUID}.{name}"] for name in broken} == {words}


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_DRIVER_NOT_LOADED, pynvml.NVML_ERROR_NO_PERMISSION])
def test_a_driver_that_does_not_answer_is_no_source(nvml_stub: Path, code: int) -> None:
    found = replayed(nvml_stub, NVML_STUB_INIT=str(code))
    assert (found["source"], found["devices"], found["first"], found["programs"]) == ("none", [], {}, [])
    assert found["nulls"] == {"gpus": str(pynvml.NVMLError(code))}


def test_a_trace_that_is_named_and_absent_is_a_driver_that_is_not_loaded(nvml_stub: Path, tmp_path: Path) -> None:
    found = replayed(nvml_stub, NVML_STUB_TRACE=str(tmp_path / "none.csv"))
    assert (found["source"], found["nulls"]) == ("none", {"gpus": "Driver Not Loaded"})


def test_what_a_trace_lacks_is_not_supported(nvml_stub: Path, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"temperature_c": 40, "time_s": 0}, {"temperature_c": 41, "time_s": 0.4}]
    found = traced(nvml_stub, tmp_path, *rows, seconds=0.6)
    assert (found["source"], found["devices"][0]["memory_bytes"]) == ("replay", None)
    assert [found[which][nvml.UUID]["temperature_c"] for which in ("first", "second")] == [40, 41]
    assert found["second"][nvml.UUID]["energy_mj"] is None
    assert found["nulls"][f"{nvml.UUID}.energy_mj"] == "Not Supported"


def test_several_gpus_and_the_parts_of_one_are_told_apart_by_uuid(nvml_stub: Path, tmp_path: Path) -> None:
    part = {"time_s": 0, "memory_total_bytes": 10, "gpu_memory_used_bytes": 4, "gpu_memory_reserved_bytes": 1}
    rows = [FULL | {"gpu": nvml.UUID}, part | {"gpu": PART}, FULL | {"gpu": OTHER, "gpu_util_percent": 3}]
    found = traced(nvml_stub, tmp_path, *rows)
    assert [one["uuid"] for one in found["devices"]] == [nvml.UUID, OTHER]
    assert found["devices"][0]["instances"] == [{"uuid": PART, "name": nvml.NAME, "memory_bytes": 10}]
    assert found["devices"][1]["instances"] == []
    said = found["first"]
    assert [said[uuid]["gpu_util_percent"] for uuid in (nvml.UUID, PART, OTHER)] == [97, None, 3]
    assert said[PART]["gpu_memory_used_bytes"] == 4
    assert found["nulls"][f"{PART}.gpu_util_percent"] == "Not Supported"


def test_who_computes_is_told_and_no_row_of_their_use_is_no_error(nvml_stub: Path, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.write_text("41 1000 30\n42 2000 0\n")
    found = traced(nvml_stub, tmp_path, FULL, NVML_STUB_PROGRAMS=str(programs))
    assert found["programs"] == [[nvml.UUID, [[41, 1000, 30], [42, 2000, None]]]]
    programs.write_text("42 2000 0\n")  # the driver then says success, and the binding raises it as an error
    found = traced(nvml_stub, tmp_path, FULL, NVML_STUB_PROGRAMS=str(programs))
    assert found["programs"] == [[nvml.UUID, [[42, 2000, None]]]]
    reason = "at some time the driver had no row of any process"
    assert found["nulls"] == {f"{nvml.UUID}.arm_sm_util_percent": reason}
    programs.write_text("")
    assert traced(nvml_stub, tmp_path, FULL, NVML_STUB_PROGRAMS=str(programs))["programs"] == [[nvml.UUID, []]]


def test_what_failed_once_and_answers_again_is_no_error_any_more(nvml_stub: Path, tmp_path: Path) -> None:
    trace = nvml.write_trace(tmp_path / "t.csv", [FULL | {"temperature_c": "!999"}, FULL | {"time_s": 0.4}])
    script = READ.replace("gpus.programs(),", "gpus.programs(), 'errors': [[*key] for key in gpus.errors],")
    told = os.environ | {"LD_LIBRARY_PATH": str(nvml_stub), "NVML_STUB_TRACE": str(trace)}
    done = subprocess.run([sys.executable, "-c", script, "0.6"], env=told, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert [found[which][nvml.UUID]["temperature_c"] for which in ("first", "second")] == [None, 61]
    assert found["nulls"][f"{nvml.UUID}.temperature_c"] == "Unknown Error", "it was null at some time"
    assert found["errors"] == [[nvml.UUID, "programs"]]


def test_a_trace_with_a_very_long_first_line_loses_nothing(nvml_stub: Path, tmp_path: Path) -> None:
    trace = nvml.write_trace(tmp_path / "t.csv", [FULL])
    trace.write_text(f"# {'x' * 9000}\n" + trace.read_text())
    found = replayed(nvml_stub, NVML_STUB_TRACE=str(trace))
    assert found["first"][nvml.UUID] == {name: FULL[name] for name in Reading._fields}


@pytest.mark.parametrize(
    ("name", "architecture", "expected"),
    [("NVIDIA H100 80GB HBM3", 9, "average of 1 s"), ("NVIDIA A100-SXM4-80GB", 7, "instant"),
     ("NVIDIA A30X", 7, "instant"),
     ("NVIDIA RTX A3000", 7, "average of 1 s"), ("Tesla V100", 5, "instant"), ("NVIDIA A10", 7, "average of 1 s"),
     ("new", 0xFFFFFFFF, None), ("old", None, None)],
)  # fmt: skip
def test_what_power_is_depends_on_the_product(name: str, architecture: int | None, expected: str | None) -> None:
    assert power_is(architecture, name) == expected


# ---------------------------------------------------------------- recording

BENCH = [sys.executable, "-m", "bench", "telemetry", "record"]


def test_what_is_recorded_can_be_replayed_and_stays_a_replay(nvml_stub: Path, tmp_path: Path) -> None:
    rows = [FULL, FULL | {"time_s": 0.5, "gpu_util_percent": 12, "power_instant_mw": "!15", "temperature_c": ""}]
    first = nvml.write_trace(tmp_path / "first.csv", rows)
    told = os.environ | {"LD_LIBRARY_PATH": str(nvml_stub), "NVML_STUB_TRACE": str(first)}
    recorded = tmp_path / "recorded.csv"
    command = [*BENCH, "--to", str(recorded), "--seconds", "0.9", "--hz", "20"]
    done = subprocess.run(command, env=told, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "recording 1 GPU(s), source replay; Ctrl-C ends it\n")
    head = json.loads(recorded.read_text().splitlines()[0].removeprefix("#"))
    assert head["schema"] == trace.SCHEMA
    assert (head["source"], head["hz"], head["gpus"][0]["driver"]) == ("replay", 20, nvml.DRIVER)
    with recorded.open() as file:
        kept = list(csv.DictReader(file.readlines()[1:]))
    assert tuple(kept[0]) == trace.COLUMNS
    assert 14 <= len(kept) <= 19
    assert kept[0]["power_instant_mw"] == "340000"
    assert (kept[-1]["power_instant_mw"], kept[-1]["temperature_c"]) == ("!15", "!3")
    again = replayed(nvml_stub, seconds=0.8, NVML_STUB_TRACE=str(recorded))
    assert again["source"] == "replay"
    assert again["first"][nvml.UUID] == {name: FULL[name] for name in Reading._fields}
    assert again["second"][nvml.UUID]["gpu_util_percent"] == 12
    assert again["nulls"][f"{nvml.UUID}.power_instant_mw"] == "GPU is lost"


def test_a_recording_that_is_interrupted_is_kept(nvml_stub: Path, tmp_path: Path) -> None:
    told = os.environ | {"LD_LIBRARY_PATH": str(nvml_stub)}
    kept = tmp_path / "t.csv"
    with subprocess.Popen([*BENCH, "--to", str(kept)], env=told, stdout=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 20
        while not kept.exists() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert said.endswith(f"{len(kept.read_text().splitlines()) - 2} readings\n")


@pytest.mark.parametrize(
    ("variables", "words"),
    [({}, "there is no libnvidia-ml.so.1"), ({"NVML_STUB_INIT": "9"}, "Driver Not Loaded")],
)
def test_without_a_gpu_there_is_nothing_to_record(
    nvml_stub: Path, tmp_path: Path, variables: dict[str, str], words: str
) -> None:
    told = os.environ | ({"LD_LIBRARY_PATH": str(nvml_stub)} if variables else {}) | variables
    command = [*BENCH, "--to", str(tmp_path / "t.csv")]
    done = subprocess.run(command, env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    sentence = f"bench: nothing to record: no NVIDIA GPU answers on this machine ({words})\n"
    assert done.stderr == sentence
    assert not (tmp_path / "t.csv").exists()
