"""What a trial holds in memory is bounded, whatever the matrix asks for; what is compiled for it is its cell's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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


def test_one_batch_larger_than_the_bound_is_still_one() -> None:
    assert fitting_batches(spec, cell(400_000, n=400_000, d=200), 0, None) == 1


def test_a_thousand_small_batches_are_never_cut_short() -> None:
    assert fitting_batches(spec, cell(64), 0, None) >= spec.parameters({})["evaluate_steps"]


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
