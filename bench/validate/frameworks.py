"""A/A with real frameworks in real containers: the same one on both sides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench import frameworks, stats, store
from bench.estimate import summary
from bench.matrix.comparison import Arm, Comparison
from bench.matrix.matrix import Budget, Matrix
from bench.matrix.model import spec_of
from bench.validate.campaign import measured
from bench.validate.row import Row, not_above
from workloads.contract import Cell, Named

WORKLOADS = ("linear_regression", "mnist_cnn")
REPLICATES = 5
BLOCKS = 10
BATCH_SIZE = 32
_A_DAY_S = 86_400.0


def rows(*, out: Path, seed: int) -> Iterator[Row]:
    """One row over all contrasts. Raises EnvironmentUnavailable: no engine, or no images."""
    comparisons = tuple(_comparison(workload, name, number) for number in range(REPLICATES)
                        for workload in WORKLOADS for name in frameworks.defaults())  # fmt: skip
    matrix = Matrix(
        name="frameworks-aa",
        source="bench validate",
        compare=("framework",),
        baseline=None,
        cells=tuple(dict.fromkeys(arm.cell for one in comparisons for arm in one.arms)),
        comparisons=comparisons,
        budget=Budget(blocks=BLOCKS, per_comparison_s=_A_DAY_S, total_s=_A_DAY_S),
        seed=seed,
    )
    document = summary.summarise(store.read(measured(matrix, out=out, launcher="docker")))
    found = [one for one in document["contrasts"] if one["p"] is not None]
    hits = sum(one["p"] < stats.ALPHA for one in found)
    widths = sorted(one["half_width"] for one in found)
    middle = f"half-width ± {100 * widths[len(widths) // 2]:.1f} % at the median" if widths else ""
    left = len(document["contrasts"]) - len(found)
    detail = f"train, eager, batch {BATCH_SIZE}; {middle}; {left} contrasts without a verdict"
    titles = " and ".join(map(frameworks.title, frameworks.defaults()))
    yield not_above(f"A/A false positives, {titles} in containers", hits, len(found), 0.05, detail=detail)


def _comparison(workload: str, framework: str, number: int) -> Comparison:
    cell = training_cell(workload, framework, launcher="docker")
    arms = tuple(Arm(id=side, cell=cell) for side in ("baseline", "arm"))
    return Comparison(id=f"{workload}-{framework}-{number}", compare=("framework",), arms=arms, baseline="baseline")


def training_cell(workload: str, framework: str, *, launcher: str) -> Cell:
    """One eager training step; what comes of the training does not matter here."""
    return Cell(
        workload=Named.of(workload, spec_of(workload).parameters({"evaluate_steps": 1})),
        framework=Named(framework),
        batch_size=BATCH_SIZE,
        device="cpu",
        launcher=launcher,
    )
