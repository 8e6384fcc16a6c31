"""What a trial holds in memory is bounded, whatever the matrix asks for; what is compiled for it is its cell's own."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.matrix.model import spec_of
from workloads import trial
from workloads.contract import Cell, Named
from workloads.linear_regression import spec
from workloads.trial import EVALUATION_BYTES, fitting_batches, inputs, own_compile_cache


def cell(batch_size: int, **given: int) -> Cell:
    workload = Named.of("linear_regression", spec.parameters(given))
    return Cell(workload=workload, framework=Named("pytorch"), batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [32, 4096, 100_000])
def test_an_evaluations_batches_fit_the_bound_and_fill_it(batch_size: int) -> None:
    wanted = cell(batch_size, n=100_000, d=64)
    count = fitting_batches(spec, wanted, 0, None)
    size = sum(array.nbytes for array in inputs(spec, wanted, 0, None, 1)[1].values())
    assert count * size <= EVALUATION_BYTES < (count + 1) * size


@pytest.mark.second
def test_one_batch_larger_than_the_bound_is_still_one() -> None:
    assert fitting_batches(spec, cell(400_000, n=400_000, d=200), 0, None) == 1


def test_a_thousand_small_batches_are_never_cut_short() -> None:
    assert fitting_batches(spec, cell(64), 0, None) >= spec.parameters({})["evaluate_steps"]


@pytest.mark.parametrize("workload", ["linear_regression", "lstm_text"])
def test_an_evaluation_is_the_same_however_many_batches_are_held_at_once(
    workload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven steps on seven batches: all at once, and two at a time with a last one alone."""
    given = {"n": 64, "d": 3, "folds": 4} if workload == "linear_regression" else {"length": 6, "width": 5}
    named = Named.of(workload, spec_of(workload).parameters(given))
    one = Cell(workload=named, framework=Named("tensorflow"), batch_size=8, device="cpu")
    found = []
    for held in (EVALUATION_BYTES, None):
        opened, _ = trial.Trial.open(cell=one.to_json(), framework="reference", seed=0, data=None)
        size = sum(array.nbytes for array in inputs(opened.spec, one, 0, None, 1)[1].values())
        monkeypatch.setattr(trial, "EVALUATION_BYTES", held or 2 * size)
        found.append(opened.evaluate(steps=7))
    assert found[0] == found[1]


def test_a_training_that_diverges_is_one_sentence() -> None:
    one = cell(64, learning_rate=900_000)
    opened, _ = trial.Trial.open(cell=one.to_json(), framework="reference", seed=0, data=None)
    with np.errstate(all="ignore"), pytest.raises(ArithmeticError) as caught:
        opened.evaluate(steps=100)
    assert re.fullmatch(r"training diverged: its loss after 100 steps is (nan|inf); lower the .*", str(caught.value))


def test_what_the_driver_compiles_for_a_cell_stays_in_its_own_cache_and_none_of_it_falls_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compilers = ("TF_XLA_FLAGS", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "CUDA_CACHE_MAXSIZE")
    for name in compilers:
        monkeypatch.setenv(name, "as before")  # and again after the test
    monkeypatch.setenv("BENCH_COMPILE_CACHE", str(tmp_path))
    folders = []
    for size in (32, 64):
        assert own_compile_cache(cell(size)) is True
        folders.append(Path(os.environ["CUDA_CACHE_PATH"]).parent)
        assert int(os.environ["CUDA_CACHE_MAXSIZE"]) == 4 * 2**30
    assert folders[0] != folders[1]
    assert {folder.parent for folder in folders} == {tmp_path}


class Device:
    """A device that works on after a step was asked for, as a GPU does; what is fetched has been waited for."""

    WORK_S = 0.002

    def __init__(self) -> None:
        self.fetched = 0

    def step(self, i: int) -> float:
        return time.perf_counter() + self.WORK_S

    def fetch(self, ready_at: float) -> Any:
        time.sleep(max(0.0, ready_at - time.perf_counter()))
        self.fetched += 1
        return np.zeros(1)


def never() -> None:
    raise AssertionError("a device was asked to synchronise: what that costs differs from framework to framework")


def around(device: Any) -> trial.Trial:
    runtime: Any = SimpleNamespace(compilations=lambda: 0, synchronise=never)
    return trial.Trial(cell(32), "pytorch", 0, None, runtime, runtime, runtime, device)


@pytest.mark.parametrize("sync", ["step", "slice"])
def test_a_time_ends_when_the_output_is_an_array_and_nothing_else_is_asked_of_the_device(sync: str) -> None:
    device = Device()
    answer = around(device).measure(steps=3, settle=2, sync=sync)
    assert all(ns >= Device.WORK_S * 1e9 for ns in answer["settle_ns"] + answer["step_ns"])
    timed = 3 if sync == "step" else 1  # inside a slice nothing waits: dispatch stays asynchronous
    assert device.fetched == 2 + timed + 1  # settling steps, then those timed, then the check after timing


def test_a_soak_waits_for_its_work() -> None:
    device = Device()
    assert around(device).soak(seconds=0.02, steps=4)["steps"] == 4 * device.fetched


def test_a_pilot_s_steps_are_timed_as_those_of_a_slice() -> None:
    opened = around(Device())
    opened.expected = [np.zeros(1)] * trial.POOL_BATCHES
    assert min(opened.warm(steps=3)["step_ns"]) >= Device.WORK_S * 1e9
