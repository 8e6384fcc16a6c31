"""The GPU's whole way, replayed: NVML's own binding over a stub library, and an engine of the tests' with a stub hook.

Nothing here is a measurement of a GPU. What is tested is the way: what the engine is asked for, what a container then
sees, and that a trace which is replayed is never taken for hardware.
"""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import nvml_stub as nvml
import pytest
from second_engine import SecondEngine

from bench.engine.client import engine as users_engine
from bench.errors import InputError, WorkerFailed
from bench.launch import GpuRequest
from bench.launch import gpu as gpus
from bench.launch.group import Group
from bench.launch.local import start_process
from bench.provision import base
from bench.telemetry.nvml import source
from workloads.contract import Cell, Named

# docker-py leaves the socket of a streamed answer to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
REPOSITORY = Path(__file__).resolve().parents[2]
BASE = "bench-base:replay"
OTHER = "GPU-53545542-0000-4000-8000-00000000ffff"
MATRIX = """\
name: stub-cuda
axes:
  workload: [{name: stub, bytes: 262144}]
  framework: [stub, {name: stub, work: 1.5}]
  device: [DEVICE]
budget: {blocks: 2, per_comparison: 1h, total: 1h}
"""
# A worker of this launcher on this device, opened: how its GPU was asked for, and what it saw.
OPEN = """
import json, os, sys
from pathlib import Path
from bench.launch.docker import DockerLauncher
from bench.launch.group import Group
from bench.matrix.need import Need
from workloads.contract import Cell, Named
cell = Cell(workload=Named.of("stub", {"bytes": 64}), framework=Named("stub"), device=sys.argv[1])
launcher = DockerLauncher(run_id="gpu-path", cache=Path(sys.argv[2]), data=None, base=sys.argv[3])
try:
    launcher.provide([Need.of(cell)], lambda words: None)
    with Group() as group:
        channel = launcher.start(cell=cell, cpus=frozenset(os.sched_getaffinity(0)), padding=0)
        group.add("stub", channel)
        told = launcher.client.api.inspect_container(channel._container)
        gpu = channel.gpu
        opened = group.ask("stub", "open", limit_s=60, cell=cell.to_json(), framework="stub", seed=0, data=None,
                           cpus=[], gpu=gpu.uuid if gpu else None)
        library = Path("/proc") / str(channel.pid) / "root/usr/lib/libnvidia-ml.so.1"
        print(json.dumps({"way": gpu and gpu.way, "seen": opened["gpu"], "runtime": told["HostConfig"]["Runtime"],
                          "library": library.exists()}))
finally:
    launcher.close()
"""
Begin = Callable[..., AbstractContextManager[SecondEngine]]


@pytest.fixture(scope="module")
def begin(nvml_stub: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Begin]:
    """Start an engine that has the base image, and NVIDIA's hook and runtime, or stubs of them, or neither."""
    data = Path(tempfile.mkdtemp(prefix="engine-data-"))
    with closing(users_engine()) as client:
        ground = base.choose(client, base=None, progress=print)
    with SecondEngine(data=data) as first:
        first.take(ground.id, BASE)
    gc.collect()

    @contextmanager
    def start(*options: str, hook: Path | None = nvml_stub / nvml.LIBRARY) -> Iterator[SecondEngine]:
        folder = tmp_path_factory.mktemp("hook")
        if hook:
            runtime = nvml.install_runtime(folder / "runtime", nvml.install_hook(folder, hook))
            options = (f"--add-runtime=nvidia={runtime}", *options)
        with SecondEngine(path=[folder], options=options, data=data) as engine:
            yield engine

    yield start
    shutil.rmtree(data, ignore_errors=True)


@pytest.fixture
def environment(nvml_stub: Path, tmp_path: Path) -> dict[str, str]:
    """Of a process that finds the stub, and keeps its own cache."""
    (tmp_path / "cache").mkdir()
    return os.environ | {"LD_LIBRARY_PATH": str(nvml_stub), "BENCH_CACHE": str(tmp_path / "cache"), "COLUMNS": "200"}


def bench(*arguments: str | Path, **how: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "bench", *map(str, arguments)], capture_output=True, text=True, check=False, **how
    )
    assert "Traceback" not in done.stderr
    return done


def matrix(folder: Path, device: str = "cuda") -> Path:
    path = folder / "stub-cuda.yaml"
    path.write_text(MATRIX.replace("DEVICE", device))
    return path


def opened(engine: SecondEngine, environment: dict[str, str], device: str = "cuda", way: str = "") -> dict[str, Any]:
    told = environment | {"DOCKER_HOST": engine.address, gpus.VARIABLE: way}
    cache = Path(environment["BENCH_CACHE"]) / "compile"
    cache.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", OPEN, device, cache, BASE], env=told, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One sentence with all of these words, and this exit code."""
    assert done.returncode == code, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("bench: ")]
    assert done.stderr.splitlines()[-1:] == said
    assert [word for word in words if word not in said[0]] == [], said[0]


def left_behind(engine: SecondEngine, folder: Path) -> list[str]:
    """Run folders, compile caches, and containers in whatever state."""
    with closing(engine.client()) as client:
        containers = [str(one["Id"]) for one in client.api.containers(all=True)]
    return containers + [str(path) for place in ("runs", "cache/compile") for path in (folder / place).glob("*")]


# ---------------------------------------------------------------- what the engine is asked


@pytest.mark.parametrize(
    ("info", "asked", "way"),
    [
        ({"Runtimes": {"runc": {}}}, "", "device"),
        ({"Runtimes": {"runc": {}, "nvidia": {}}, "DefaultRuntime": "runc"}, "", "device"),
        ({"DefaultRuntime": "nvidia"}, "", "runtime"),
        ({"DiscoveredDevices": [{"Source": "cdi", "ID": f"nvidia.com/gpu={nvml.UUID}"}]}, "", "cdi"),
        ({"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}, "", "device"),
        ({"DefaultRuntime": "nvidia"}, "device", "device"),
        ({}, "cdi", "cdi"),
    ],
)
def test_an_engine_is_asked_in_the_way_that_it_offers_or_that_it_is_told(
    monkeypatch: pytest.MonkeyPatch, info: dict[str, Any], asked: str, way: str
) -> None:
    monkeypatch.setenv(gpus.VARIABLE, asked)
    assert gpus.way(nvml.UUID, info) == way


def test_by_cdi_the_device_is_named_whole_and_nvidia_s_runtime_told_to_add_nothing() -> None:
    asked = GpuRequest(uuid=nvml.UUID, way="cdi")
    (request,) = gpus.host_options(asked)["device_requests"]
    assert (request["Driver"], request["DeviceIDs"]) == ("cdi", [f"nvidia.com/gpu={nvml.UUID}"])
    assert gpus.variables(asked) == {"NVIDIA_VISIBLE_DEVICES": "void"}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            'could not select device driver "" with capabilities: [[gpu]]',
            "has no GPU runtime; install nvidia-container",
        ),
        ('could not select device driver "cdi" with capabilities: []', "BENCH_GPU_REQUEST=device"),
        ("Unknown runtime specified nvidia", "has no runtime named nvidia; install"),
        ("unknown or invalid runtime name: nvidia", "has no runtime named nvidia; install"),
        ("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=GPU-1", "nvidia-ctk cdi generate"),
        (
            "OCI runtime create failed: hook #0: stderr: nvidia-container-cli: device error: GPU-1: unknown device\\n",
            "(nvidia-container-cli: device error: GPU-1: unknown device); check nvidia-smi",
        ),
    ],
)
def test_an_engine_s_refusal_of_a_gpu_becomes_a_sentence_with_a_remedy(said: str, words: str) -> None:
    sentence = gpus.sentence(said)
    assert sentence
    assert words in sentence


def test_another_error_of_the_engine_is_not_put_down_to_the_gpu() -> None:
    assert gpus.sentence("OCI runtime create failed: no space left on device") is None


# ---------------------------------------------------------------- a second engine, with the stub hook


@pytest.mark.docker
def test_a_stub_runs_on_a_replayed_gpu_from_request_to_report_and_nothing_calls_it_hardware(
    begin: Begin, environment: dict[str, str], tmp_path: Path
) -> None:
    with begin() as engine:
        told = environment | {"DOCKER_HOST": engine.address}
        command = ("run", "--matrix", matrix(tmp_path), "--device", "cuda", "--launcher", "docker", "--base", BASE)
        done = bench(*command, "--out", tmp_path / "runs", env=told)
        assert done.returncode == 0, done.stderr + done.stdout
        (folder,) = (tmp_path / "runs").iterdir()
        with closing(engine.client()) as client:
            assert client.api.containers(all=True) == []
    seen = {"uuid": nvml.UUID, "name": nvml.NAME, "driver": nvml.DRIVER, "request": "device"}
    blocks = [json.loads(line) for line in (folder / "blocks.jsonl").read_text().splitlines()]
    assert [arm["gpu"] for block in blocks for arm in block["arms"].values()] == [seen] * 2 * len(blocks)
    document = json.loads(bench("report", folder, "--format", "json").stdout)
    assert document["telemetry"]["source"] == "replay"
    assert document["environment"]["device"] == "cuda"
    for page in (done.stdout, bench("report", folder, "--format", "markdown").stdout):
        assert "STUB-GPU (replay)" in page
        assert "replay: a trace stands in for a GPU, and nothing of it was measured" in " ".join(page.split())
        assert "hardware" not in page


@pytest.mark.docker
def test_by_device_request_and_by_runtime_the_gpu_is_seen_and_a_cpu_cell_sees_none(
    begin: Begin, environment: dict[str, str]
) -> None:
    seen = {"uuid": nvml.UUID, "name": nvml.NAME, "driver": nvml.DRIVER}
    with begin("--default-runtime=nvidia") as engine:
        by_itself = opened(engine, environment)
        assert by_itself == {"way": "runtime", "seen": seen, "runtime": "nvidia", "library": True}
        assert opened(engine, environment, device="cpu") == {
            "way": None, "seen": None, "runtime": "nvidia", "library": False,
        }  # fmt: skip
    with begin() as engine:
        assert opened(engine, environment) == {"way": "device", "seen": seen, "runtime": "runc", "library": True}
        told = opened(engine, environment, way="runtime")
        assert told == {"way": "runtime", "seen": seen, "runtime": "nvidia", "library": True}


@pytest.mark.docker
@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("device", "the Docker engine has no GPU runtime; install nvidia-container-toolkit"),
        ("runtime", "the Docker engine has no runtime named nvidia; install nvidia-container-toolkit"),
        ("cdi", "by CDI"),
    ],
)
def test_an_engine_without_a_gpu_runtime_is_one_sentence_and_leaves_nothing(
    begin: Begin, environment: dict[str, str], tmp_path: Path, way: str, words: str
) -> None:
    with begin(hook=None) as engine:
        told = environment | {"DOCKER_HOST": engine.address, gpus.VARIABLE: way}
        command = ("run", "--matrix", matrix(tmp_path), "--launcher", "docker", "--base", BASE)
        done = bench(*command, "--out", tmp_path / "runs", env=told)
        refused(done, 3, f"device cuda: {words}" if way != "cdi" else words)
        assert left_behind(engine, tmp_path) == []


@pytest.mark.docker
def test_an_engine_that_drops_the_request_or_gives_another_gpu_is_found_out_from_inside(
    begin: Begin, environment: dict[str, str], tmp_path: Path
) -> None:
    command = ("run", "--matrix", matrix(tmp_path), "--launcher", "docker", "--base", BASE, "--out", tmp_path / "runs")
    with begin(hook=Path("/nothing")) as engine:
        told = environment | {"DOCKER_HOST": engine.address}
        hook = Path(engine._path[0]) / nvml.HOOK
        hook.write_text("#!/bin/sh\nexit 0\n")
        refused(bench(*command, env=told), 3, "sees no GPU", nvml.UUID, "BENCH_GPU_REQUEST=")
        nvml.install_hook(hook.parent, nvml.build(tmp_path / "other", uuid=OTHER))
        refused(bench(*command, env=told), 3, f"does not see the GPU {nvml.UUID} that was asked for, but {OTHER}")
        assert left_behind(engine, tmp_path) == []


# ---------------------------------------------------------------- where nothing may run


def test_a_process_looks_for_its_gpu_too(environment: dict[str, str], tmp_path: Path) -> None:
    code = "import sys, json; from workloads.gpu import find; print(json.dumps(find(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", code, nvml.UUID], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {"uuid": nvml.UUID, "name": nvml.NAME, "driver": nvml.DRIVER}
    broken = environment | {"NVML_STUB_TRACE": str(tmp_path / "none.csv")}
    done = subprocess.run(
        [sys.executable, "-c", code, nvml.UUID], env=broken, capture_output=True, text=True, check=False
    )
    assert "GpuAbsent: the worker sees no GPU: nvmlInit_v2 says 'Driver Not Loaded'" in done.stderr


def asked_of_a_process(gpu: str | None, cache: Path) -> WorkerFailed:
    """What a stub on `cuda` answers to `open` in a process that finds no library of the driver's."""
    cell = Cell(workload=Named.of("stub", {"bytes": 64}), framework=Named("stub"), device="cuda")
    args = {"cell": cell.to_json(), "framework": "stub", "seed": 0, "data": None, "cpus": [], "gpu": gpu}
    with Group() as group:
        group.add("stub", start_process(Path(sys.executable), root=REPOSITORY, cache=cache, padding=0))
        with pytest.raises(WorkerFailed) as caught:
            group.ask("stub", "open", limit_s=60, **args)
    return caught.value


def test_a_worker_that_does_not_see_its_gpu_answers_with_one_sentence_and_opens_nothing(tmp_path: Path) -> None:
    failure = asked_of_a_process("GPU-of-nobody", tmp_path)
    assert failure.kind == "no_gpu"
    assert "GPU-of-nobody" in str(failure)
    assert str(failure).endswith("or ask it another way: BENCH_GPU_REQUEST=device, cdi or runtime")


def test_a_stub_does_not_say_cuda_where_no_gpu_was_asked_for(tmp_path: Path) -> None:
    failure = asked_of_a_process(None, tmp_path)
    assert failure.kind == "unsupported"
    assert "choose device cpu" in str(failure)


def test_a_way_of_asking_that_does_not_exist_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpus.VARIABLE, "nvidia")
    with pytest.raises(InputError, match='BENCH_GPU_REQUEST: "nvidia" is unknown; choose device, cdi or runtime'):
        gpus.way(nvml.UUID, {})


def test_a_framework_does_not_run_on_a_replay(environment: dict[str, str], tmp_path: Path) -> None:
    done = bench("run", "--matrix", "quick", "--device", "cuda", "--out", tmp_path / "runs", env=environment)
    refused(done, 2, "device cuda: the GPU here is a replayed trace, which runs no framework")
    assert not (tmp_path / "runs").exists()


def test_auto_never_chooses_a_replay(environment: dict[str, str], tmp_path: Path) -> None:
    command = ("run", "--matrix", matrix(tmp_path, "auto"), "--launcher", "local", "--budget", "1s")
    bench(*command, "--out", tmp_path / "runs", env=environment)
    (folder,) = (tmp_path / "runs").iterdir()
    header = json.loads((folder / "run.json").read_text())
    assert header["environment"]["gpu_source"] == "replay"
    assert header["environment"]["device"] == "cpu"
    assert {cell["device"] for cell in header["matrix"]["cells"]} == {"cpu"}


@pytest.mark.docker
@pytest.mark.parametrize("launcher", ["local", "docker"])
def test_without_a_gpu_cuda_is_one_sentence_and_leaves_nothing_by_either_launcher(
    tmp_path: Path, launcher: str
) -> None:
    if source() == "nvml":
        pytest.skip("there is a GPU here")
    with closing(users_engine()) as client:
        before = {one["Id"] for one in client.api.containers(all=True)}
        for what in ("quick", str(matrix(tmp_path))):
            done = bench(
                "run", "--matrix", what, "--device", "cuda", "--launcher", launcher, "--out", tmp_path / "runs",
                env=os.environ | {"BENCH_CACHE": str(tmp_path / "cache")},
            )  # fmt: skip
            refused(done, 2, "device cuda: no NVIDIA driver answers on this machine; choose --device cpu")
        ours = [one for one in client.api.containers(all=True) if one["Id"] not in before]
        assert [one for one in ours if re.search("stub-cuda|quick", str(one["Labels"].get("bench.run")))] == []
    assert not (tmp_path / "runs").exists()
    assert not list((tmp_path / "cache").rglob("compile/*"))
