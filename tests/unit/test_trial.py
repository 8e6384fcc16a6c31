"""What a trial holds in memory is bounded, whatever the matrix asks for."""

from __future__ import annotations

import pytest

from workloads.contract import Cell, Named
from workloads.linear_regression import spec
from workloads.trial import EVALUATION_BYTES, fitting_batches, inputs


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
