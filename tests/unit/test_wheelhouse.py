"""Wheels are gathered with the real pip and uv, from small packages made here."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small_wheels import CUDA, digest, make_torch, make_wheel

from bench import frameworks, paths
from bench.errors import EnvironmentUnavailable, InputError
from bench.provision import locks, torch, wheels
from bench.provision.locks import Target

pytestmark = pytest.mark.second

REPOSITORY = Path(__file__).resolve().parents[2]


def gather(version: str | None = None, python: str = "3.11") -> wheels.Wheelhouse:
    return wheels.gather(framework="pytorch", version=version, python=python, progress=lambda _: None)


# The committed locks


@pytest.mark.parametrize("flavour", ["cpu", "cuda"])
@pytest.mark.parametrize("framework", ["tensorflow", "pytorch"])
def test_a_committed_lock_pins_every_package_with_hashes_and_names_no_address(framework: str, flavour: str) -> None:
    text = locks.lock_path(framework, flavour).read_text()
    assert not [word for word in ("//", "--index", "--find-links", ";") if word in text]
    pins = locks.committed_lock(framework, flavour).pins
    assert len(pins) > 8
    assert all(pin.hashes and len(value) == 64 for pin in pins for value in pin.hashes)


def test_every_lock_holds_one_numpy_and_both_flavours_one_release() -> None:
    every = {
        (name, flavour): locks.committed_lock(name, flavour)
        for name, one in frameworks.every().items()
        for flavour in one.packages
    }
    assert len({pin for lock in every.values() for pin in lock.pins if pin.name == "numpy"}) == 1
    for framework in frameworks.every():
        assert len({lock.version for (name, _), lock in every.items() if name == framework}) == 1


def test_scikit_learn_has_no_build_for_a_gpu_and_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"^scikit-learn computes on the CPU alone; choose device cpu, or leave"):
        locks.committed_lock("sklearn", "cuda")


def test_both_frameworks_compute_with_one_cudnn_on_a_gpu() -> None:
    """Built for CUDA 12 and 13, so that all else differs; a report lists that."""
    found = {
        pin.version
        for framework, one in frameworks.every().items()
        if "cuda" in one.packages
        for pin in locks.committed_lock(framework, "cuda").pins
        if pin.name.startswith("nvidia-cudnn-")
    }
    assert len(found) == 1


def test_the_extras_name_the_locked_versions() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["tensorflow"] == [f"tensorflow-cpu=={wheels.locked_version('tensorflow')}"]
    assert extras["sklearn"] == [f"scikit-learn=={wheels.locked_version('sklearn')}"]
    assert extras["torch"] == [f"torch=={wheels.locked_version('pytorch')}"]


def test_each_hash_of_torch_in_the_lock_belongs_to_a_named_wheel() -> None:
    named = (REPOSITORY / "images" / "pytorch" / "wheels.sha256").read_text().split()[::2]
    assert set(locks.committed_lock("pytorch").framework_pin.hashes) == set(named)


@pytest.mark.parametrize(
    "version", ["2.13.0; python_version > '3'", "latest", "--index-url=x", "2.13.0+cu130", "2.13", "02.13.0", ""]
)
def test_a_version_that_is_no_release_number_is_bad_input(version: str) -> None:
    with pytest.raises(InputError, match="is no release number; write it like"):
        gather(version)


def test_an_unknown_framework_is_bad_input() -> None:
    with pytest.raises(InputError, match='framework "jax" is unknown; choose tensorflow or pytorch'):
        wheels.locked_version("jax")


def test_a_python_outside_the_locks_is_refused() -> None:
    with pytest.raises(EnvironmentUnavailable, match=r"Python 3\.14 is outside 3\.11 to 3\.13"):
        gather(python="3.14")


# Gathering


def test_a_wheelhouse_is_gathered_once_and_then_found_in_milliseconds(
    links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_torch(links, "9.9.0+cpu")
    first = gather()
    assert {path.name.split("-")[0] for path in first.path.glob("*.whl")} == {"torch", "numpy"}
    assert first.requirements.read_text().count("--hash=sha256:") == 2
    monkeypatch.setattr(wheels, "pip", pytest.fail)
    start = time.perf_counter()
    assert gather() == first
    assert time.perf_counter() - start < 0.1


def test_wheels_fit_the_target_python_not_the_running_one(links: Path) -> None:
    for python in ("cp311", "cp312", "cp313"):
        make_torch(links, "9.9.0+cpu", python=python)
    for python in ("3.11", "3.12", "3.13"):
        found = [path.name for path in gather(python=python).path.glob("torch-*.whl")]
        assert len(found) == 1
        assert f"-cp{python.replace('.', '')}-" in found[0]


def test_concurrent_gathers_yield_one_complete_wheelhouse(links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_torch(links, "9.9.0+cpu")
    calls: list[str] = []

    def counted(*arguments: str) -> str:
        calls.append(arguments[0])
        return real(*arguments)

    real = wheels.pip  # type: ignore[attr-defined]
    monkeypatch.setattr(wheels, "pip", counted)
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: gather(), range(8)))
    assert len(found) == 1
    assert calls == ["download", "download"]
    assert [path for path in (paths.cache_root() / "wheelhouse").iterdir() if path.name.startswith(".partial")] == []


def test_what_a_killed_gather_left_is_never_used_and_removed(links: Path) -> None:
    make_torch(links, "9.9.0+cpu")
    whole = gather()
    left = whole.path.with_name(f".partial-{whole.path.name}-killed")
    whole.path.rename(left)
    (left / "torch-garbage.whl").write_text("half a wheel")
    again = gather()
    assert again == whole
    assert not left.exists()
    assert not (again.path / "torch-garbage.whl").exists()


def test_a_failed_gather_leaves_nothing_that_looks_complete(links: Path) -> None:
    make_torch(links, "9.9.0+cpu")
    next(links.glob("numpy*")).unlink()
    with pytest.raises(EnvironmentUnavailable, match=r"PyTorch 9\.9\.0 for Python 3\.11 .* cannot be had: .*numpy"):
        gather()
    assert list((paths.cache_root() / "wheelhouse").glob("*pytorch*")) == []


def test_a_tampered_wheel_is_refused(links: Path) -> None:
    make_torch(links, "9.9.0+cpu")
    make_wheel(links, "numpy", "1.0", text="import os  # not what was locked")
    with pytest.raises(EnvironmentUnavailable, match="DO NOT MATCH THE HASHES"):
        gather()


def test_an_unseen_torch_wheel_is_recorded_on_first_use_and_held_from_then_on(links: Path) -> None:
    wheel = make_torch(links, "9.9.0+cpu")
    notes = " ".join(gather().notes)
    assert f"recorded on first use: sha256:{digest(wheel)}" in notes
    for folder in (paths.cache_root() / "wheelhouse").glob("pytorch-*"):
        folder.rename(folder.with_name("set-aside"))
    recorded = digest(wheel)
    make_torch(links, "9.9.0+cpu", text="print('another file under the same name')")
    with pytest.raises(EnvironmentUnavailable, match=f"where {recorded} is locked.*refused"):
        gather()


def test_a_torch_wheel_that_the_lock_names_must_be_that_file(links: Path) -> None:
    wheel = make_torch(links, "9.9.0+cpu")
    (paths.images_root() / "pytorch" / "wheels.sha256").write_text(f"{'1' * 64}  {wheel.name}\n")
    with pytest.raises(EnvironmentUnavailable, match=f"where {'1' * 64} is locked"):
        gather()


# CPU and CUDA


@pytest.mark.parametrize(("version", "needs"), [("9.9.0", CUDA), ("9.9.0+cu130", ())])
def test_a_cuda_candidate_is_refused_in_one_sentence(links: Path, version: str, needs: tuple[str, ...]) -> None:
    wheel = make_torch(links, version, needs=needs)
    with pytest.raises(EnvironmentUnavailable) as refused:
        gather()
    sentence = str(refused.value)
    assert wheel.name.partition("+")[0] in sentence
    assert "which is refused" in sentence
    assert "find-links" in sentence
    assert "BENCH_TORCH_INDEX" in sentence
    assert "\n" not in sentence
    assert list((paths.cache_root() / "wheelhouse").glob("**/*.whl")) == []


def test_a_build_without_gpu_packages_on_this_machine_is_a_cpu_build(links: Path) -> None:
    make_torch(links, "9.9.0", needs=("nvidia-cublas; platform_machine == 'other'", "nvidia-nccl; extra == 'gpu'"))
    assert "torch 9.9.0 from pip's own configuration" in gather().notes


@pytest.mark.parametrize("kind", ["index", "folder"])
def test_bench_torch_index_serves_the_cpu_build_that_pip_does_not_offer(
    links: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    make_torch(links, "9.9.0", needs=CUDA)
    folder, address = served
    wheel = make_torch(folder / "torch" if kind == "index" else folder, "9.9.0+cpu")
    if kind == "index":
        link = f'<a href="{wheel.name}#sha256={digest(wheel)}">{wheel.name}</a>'
        (folder / "torch" / "index.html").write_text(link)
    monkeypatch.setenv("BENCH_TORCH_INDEX", address.replace("//", "//alice:s3cret@"))
    found = gather()
    assert f"torch 9.9.0+cpu from {address}" in found.notes, "a note may be published"
    assert digest(found.path / wheel.name) == digest(wheel)


def test_an_index_whose_file_is_not_what_it_announces_is_refused(
    links: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    wheel = make_torch(folder / "torch", "9.9.0+cpu")
    (folder / "torch" / "index.html").write_text(f'<a href="{wheel.name}#sha256={"2" * 64}">{wheel.name}</a>')
    monkeypatch.setenv("BENCH_TORCH_INDEX", address)
    with pytest.raises(EnvironmentUnavailable, match=r"torch 9\.9\.0"):
        gather()


@pytest.mark.network
def test_the_real_index_is_asked_for_metadata_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip"))
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "nothing").mkdir()
    monkeypatch.setenv("BENCH_TORCH_INDEX", str(tmp_path / "nothing"))
    with pytest.raises(EnvironmentUnavailable) as refused:
        torch.find_cpu_wheel(version=wheels.locked_version("pytorch"), target=Target("3.12"))
    if "pip offers no torch" in str(refused.value):
        pytest.skip("no package index answers here")
    assert "pip would fetch the CUDA build torch-" in str(refused.value)
    downloaded = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert downloaded < 50 * 2**20


# Versions without a committed lock


def test_another_version_is_resolved_once_and_held_from_then_on(links: Path) -> None:
    make_wheel(links, "setuptools", "80.0")
    make_wheel(links, "filelock", "3.0")
    make_torch(links, "9.8.0+cpu", needs=("filelock",))
    first = gather("9.8.0")
    assert {path.name.split("-")[0] for path in first.path.glob("*.whl")} == {
        "torch",
        "numpy",
        "setuptools",
        "filelock",
    }
    assert "not the locked version: resolved and recorded on first use" in " ".join(first.notes)
    make_wheel(links, "filelock", "3.1")  # a newer one comes out; the lock is held
    first.path.rename(first.path.with_name("set-aside"))
    second = gather("9.8.0")
    assert second.lock_hash == first.lock_hash
    assert [path.name for path in second.path.glob("filelock*")] == ["filelock-3.0-py3-none-any.whl"]


@pytest.fixture
def cuda_links(links: Path) -> Path:
    """A release whose only build is for CUDA, with the libraries that it needs."""
    make_wheel(links, "setuptools", "80.0")
    make_wheel(links, "nvidia_cublas", "13.1.1.3")
    make_torch(links, "9.8.0", needs=CUDA)
    return links


def test_a_release_that_is_asked_for_and_has_no_cpu_build_is_its_cuda_build_and_says_so(cuda_links: Path) -> None:
    said: list[str] = []
    found = wheels.gather(framework="pytorch", version="9.8.0", python="3.11", progress=said.append)
    assert [wheel.name.split("-")[0] for wheel in sorted(found.path.glob("nvidia*"))] == ["nvidia_cublas"]
    assert "no CPU build of torch 9.8.0 can be had here: taking its CUDA build, gigabytes, to run on the CPU" in said
    assert "pytorch 9.8.0 is its CUDA build, run on the CPU: no CPU build could be had" in found.notes


def test_a_cuda_build_is_not_taken_where_a_cpu_build_of_that_release_is_offered(cuda_links: Path) -> None:
    make_torch(cuda_links, "9.8.0+cpu")
    found = gather("9.8.0")
    assert [path.name for path in found.path.glob("torch-*")] == [make_torch(cuda_links, "9.8.0+cpu").name]
    assert list(found.path.glob("nvidia*")) == []


def test_flavour_cuda_takes_the_cuda_build_past_a_cpu_wheel_of_the_same_release(links: Path) -> None:
    cuda, cublas = make_torch(links, "9.9.0", needs=CUDA), make_wheel(links, "nvidia_cublas", "13.1.1.3")
    make_torch(links, "9.9.0+cpu")
    pins = {"numpy==1.0": links / "numpy-1.0-py3-none-any.whl", "nvidia-cublas==13.1.1.3": cublas, "torch==9.9.0": cuda}
    text = "".join(f"{pin} \\\n    --hash=sha256:{digest(path)}\n" for pin, path in pins.items())
    locks.lock_path("pytorch", "cuda").write_text(text)
    both = {
        flavour: wheels.gather(
            framework="pytorch", version=None, python="3.11", flavour=flavour, progress=lambda _: None
        )
        for flavour in locks.FLAVOURS
    }
    assert {flavour: [path.name for path in found.path.glob("torch-*")] for flavour, found in both.items()} == {
        "cpu": [make_torch(links, "9.9.0+cpu").name],
        "cuda": [cuda.name],
    }
    assert both["cuda"].flavour == "cuda"


# The workers' package


def test_a_staged_root_holds_workloads_alone_readable_by_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    root = paths.staged_worker_root()
    assert [path.name for path in root.iterdir()] == ["workloads"]
    assert (root / "workloads" / "contract.py").read_bytes() == (REPOSITORY / "workloads" / "contract.py").read_bytes()
    assert all(path.stat().st_mode & 0o004 for path in (root, *root.rglob("*")))
    assert paths.staged_worker_root() == root
    source = root / "workloads" / "contract.py"
    assert Path(importlib.util.cache_from_source(str(source))).exists()
    command = [sys.executable, "-c", "import workloads.contract as c; print(c.Named.of.__code__.co_filename)"]
    env = {"PYTHONPATH": str(root), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == str(source)
