"""What `bench clean` may take: only what its owner, told apart from every other process, has surely left."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import paths
from bench.engine import owner
from bench.engine.reaper import Reaper
from bench.launch import cache as compile_caches
from bench.launch import clean

# docker-py leaves the socket of an engine that is not there to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
MACHINE, BOOT, NAMESPACE, PID, STARTED = owner.mine().split("/")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    yield tmp_path
    gc.collect()  # such sockets go within the test that left them


def test_this_process_is_not_gone() -> None:
    assert not owner.is_gone(owner.mine())


def test_a_process_that_has_ended_is_gone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from bench.engine import owner; print(owner.mine())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert owner.is_gone(done.stdout.strip())


def test_a_pid_that_was_given_again_is_another_process() -> None:
    assert owner.is_gone("/".join((MACHINE, BOOT, NAMESPACE, PID, str(int(STARTED) + 1))))


@pytest.mark.parametrize(
    "other",
    [
        f"another-machine/{BOOT}/{NAMESPACE}/999999999/1",
        f"{MACHINE}/{BOOT}/another-namespace/999999999/1",
        "12345",
        "",
        f"{MACHINE}/{BOOT}/{NAMESPACE}/no-number/1",
    ],
)
def test_who_cannot_be_seen_from_here_may_live(other: str) -> None:
    assert not owner.is_gone(other)


def test_before_the_last_boot_nobody_lives() -> None:
    assert owner.is_gone(f"{MACHINE}/another-boot/{NAMESPACE}/{PID}/{STARTED}")


def test_the_reaper_is_of_this_bench_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").write_text("raise SystemExit('another bench')")
    monkeypatch.chdir(tmp_path)
    waiting = Reaper("of-no-run")
    waiting.dismiss()
    assert waiting._process.returncode == 0


def test_the_compile_cache_of_a_dead_run_goes_and_that_of_a_living_one_stays(cache: Path) -> None:
    dead = cache / "compile" / "dead"
    dead.mkdir(parents=True)
    (dead / "code").write_bytes(b"x" * 100)
    with compile_caches.compile_cache("living") as living:
        (one,), unseen = clean.clean()
        assert (one.kind, one.name, one.size_bytes) == ("compile cache", str(dead), 100)
        assert not dead.exists()
        assert living.exists()
        assert unseen is not None
        assert "no Docker engine answers" in unseen
    assert not living.exists()


def test_a_half_made_folder_goes_after_a_day(cache: Path) -> None:
    for name, age_s in (("old", 2 * clean.HALF_MADE_S), ("young", 60)):
        folder = cache / "wheelhouse" / f".partial-{name}"
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - age_s, time.time() - age_s))
    with paths.building(cache / "wheelhouse" / "now") as partial:
        (one,), _ = clean.clean()
        assert one.name.endswith(".partial-old")
        assert partial.exists()


def test_what_a_kill_left_elsewhere_in_the_cache_goes_after_a_day_too(cache: Path) -> None:
    day_old = (time.time() - 2 * clean.HALF_MADE_S,) * 2
    for name in ("bench-abcd1234", "bench-young"):
        (cache / name).mkdir()
        (cache / name / "rootfs.tar").write_bytes(b"x" * 10)
    (cache / "bases").mkdir()
    (cache / "bases" / "1234.part").write_bytes(b"x" * 20)
    (cache / "bases" / "1234.tar").write_bytes(b"whole")
    for left in (cache / "bench-abcd1234", cache / "bases" / "1234.part", cache / "bases" / "1234.tar"):
        os.utime(left, day_old)
    found, _ = clean.clean()
    assert {(one.kind, Path(one.name).name, one.size_bytes) for one in found} == {
        ("folder", "bench-abcd1234", 10), ("file", "1234.part", 20)
    }  # fmt: skip
    assert sorted(path.name for path in (*cache.glob("bench-*"), *cache.glob("bases/*"))) == ["1234.tar", "bench-young"]


def test_a_dry_run_removes_nothing(cache: Path) -> None:
    (cache / "compile" / "dead").mkdir(parents=True)
    assert clean.clean(dry_run=True)[0] == clean.clean(dry_run=True)[0] != []
    assert (cache / "compile" / "dead").exists()
