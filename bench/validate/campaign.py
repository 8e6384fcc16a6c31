"""Stub contrasts by the hundred, as one ordinary run: the real launcher, lockstep, run folder and report.

Only the prologues are spared: every contrast is given the same plan, and the certificate of a stub. A campaign that was
stopped goes on where it stopped, like any run.
"""

from __future__ import annotations

import csv
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench import stats, store
from bench.estimate import frames, summary
from bench.matrix.comparison import Arm, Comparison
from bench.matrix.matrix import Budget, Matrix, Telemetry
from bench.measure import certify, parity, run
from bench.planning import slices as plan
from bench.planning.slices import Plan, SlicePlan
from workloads.contract import STUB, Cell, Named, Value

if TYPE_CHECKING:
    from bench.machine.cpus import Placement
    from bench.measure.standing import Stand
    from bench.planning.schedule import Planned

# Some 0.4 ms a step. What calling a step costs besides its work is 0.5 % of that: at 50 µs it was 3 %, and 10 % more
# work took 9.7 % more time, which intervals of calm contrasts rightly did not cover.
BYTES = 524_288
SETTLE, WARM = 1, 5
STEP_NS = 400_000.0
PAIRED_SD = 0.015
_A_DAY_S = 86_400.0
_SAY_EVERY_S = 20.0

Knobs = Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class Turns:
    """How long a stub's block is, and how long it warms up."""

    rounds: int
    steps: int
    warm: int = WARM

    @property
    def measured_steps(self) -> int:
        """What an arm does in a block once it is warm, the slices of the sync that does not decide included."""
        slices = self.rounds + self.rounds // plan.OTHER_SYNC_EVERY
        return slices * (self.steps + SETTLE)


# Short slices in many rounds: on a noisy machine the paired SD was 1.5 % with 16 rounds of 6 ms, 1.0 % with 48 of 2 ms.
SHORT = Turns(rounds=6, steps=5)  # most of such a block is the start of its processes
MIDDLE = Turns(rounds=48, steps=4)
USUAL = Turns(rounds=24, steps=20)  # as many rounds, as long, as a framework's block has
LONG = Turns(rounds=192, steps=3)  # for what happens within a block; with 96 a noisy machine hid every third drift


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What the baseline's stub and the arm's do."""

    baseline: Knobs
    arm: Knobs


def noisy(paired_sd: float = PAIRED_SD, **knobs: Value) -> dict[str, Value]:
    """A stub's parameters with block noise; two such arms have the given paired standard deviation of log ratio."""
    return {"noise": round(paired_sd / math.sqrt(2), 6), **knobs}


def campaign(
    name: str,
    pairs: Sequence[Pair],
    *,
    blocks: int,
    launcher: str,
    out: Path,
    seed: int,
    plan: Turns = SHORT,
    placement: Placement | None = None,
) -> list[dict[str, Any]]:
    """Measure every pair in so many blocks; the contrasts of the report, in order. Raises BenchError.

    placement  where arms and harness run; None: as for any run

    A contrast has, beside what `bench report` prints of it, `d`, its log ratio in every block, and their standard
    deviation, `spread`. They stand in `<out>/<name>.csv` too, one line a contrast.
    """
    matrix = matrix_of(name, pairs, blocks=blocks, launcher=launcher, seed=seed)
    given = prepared(matrix.comparisons, plan, placement)
    stored = store.read(measured(matrix, out=out, launcher=launcher, prepared=given))
    samples = frames.read(stored)
    found = [one | _by_block(one, samples) for one in summary.summarise(stored)["contrasts"]]
    _keep(out / f"{name}.csv", found)
    return found


def matrix_of(
    name: str, pairs: Sequence[Pair], *, blocks: int, launcher: str, seed: int, per_comparison_s: float = _A_DAY_S
) -> Matrix:
    """A matrix of one comparison a pair."""
    comparisons = tuple(_comparison(f"{name}-{number:04d}", pair, launcher) for number, pair in enumerate(pairs))
    return Matrix(
        name=name,
        source="bench validate",
        compare=("framework",),
        baseline=None,
        cells=tuple(dict.fromkeys(arm.cell for one in comparisons for arm in one.arms)),
        comparisons=comparisons,
        budget=Budget(blocks=blocks, per_comparison_s=per_comparison_s, total_s=_A_DAY_S),
        seed=seed,
        telemetry=Telemetry(soak_s=0.0),
    )


def measured(matrix: Matrix, *, out: Path, launcher: str, prepared: run.Prepared | None = None) -> Path:
    """The folder of this matrix's finished run inside `out`: found, gone on with, or begun."""
    view = Quiet(matrix.name, len(matrix.comparisons) * (matrix.budget.blocks or matrix.budget.max_blocks))
    for folder in sorted(path.parent for path in out.glob(f"{matrix.name}-2*/run.json")):
        if store.read(folder).run["finished_at"]:
            return folder
        return run.resume(folder, view=view, placement=prepared.placement if prepared else None)
    return run.new(matrix, launchers=[launcher], out=out, base=None, view=view, prepared=prepared)


def _comparison(id_: str, pair: Pair, launcher: str) -> Comparison:
    arms = tuple(
        Arm(
            id=name,
            cell=Cell(
                workload=Named.of(STUB, {"bytes": BYTES}),
                framework=Named.of(STUB, knobs),
                device="cpu",
                launcher=launcher,
            ),
        )
        for name, knobs in (("baseline", pair.baseline), ("arm", pair.arm))
    )
    return Comparison(id=id_, compare=("framework",), arms=arms, baseline="baseline")


def prepared(comparisons: Sequence[Comparison], turns: Turns, placement: Placement | None = None) -> run.Prepared:
    """What spares stubs their prologues: the same plan for all, and the certificate of a stub."""
    names = ("baseline", "arm")
    plan = Plan(
        slices=SlicePlan(steps=dict.fromkeys(names, turns.steps), settle_steps=SETTLE, rounds=turns.rounds),
        warm_steps=dict.fromkeys(names, turns.warm),
        step_ns=dict.fromkeys(names, STEP_NS),
    )
    skipped = parity.skipped(certify.STUB_REASON).to_json()
    return run.Prepared(
        plans={one.id: plan for one in comparisons},
        certificates=[{"comparison": one.id, "baseline": "baseline", "arm": "arm"} | skipped for one in comparisons],
        placement=placement,
    )


def _by_block(contrast: Mapping[str, Any], samples: frames.Frames) -> dict[str, Any]:
    """Its log ratio in every valid block, and their standard deviation; None with fewer than two."""
    rounds = frames.round_log_ratios(samples, contrast["comparison"], baseline="baseline", arm="arm", sync="slice")
    d = [stats.block_log_ratio(block) for block in rounds]
    return {"d": d, "spread": statistics.stdev(d) if len(d) > 1 else None}


def _keep(path: Path, contrasts: Sequence[Mapping[str, Any]]) -> None:
    """One line a contrast, with what its interval and its p came from."""
    columns = ("comparison", "ratio", "ci_low", "ci_high", "p", "blocks", "blocks_repeated", "verdict", "d")
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(columns)
        for one in contrasts:
            low, high = one["ci"] or (None, None)
            d = " ".join(f"{value:.6f}" for value in one["d"])
            middle = (one["p"], one["blocks"], one["blocks_repeated"], one["verdict"])
            writer.writerow([one["comparison"], one["ratio"], low, high, *middle, d])


class Quiet:
    """A view of one line now and then, instead of one a block: what went wrong is in the run folder."""

    def __init__(self, name: str, blocks: int) -> None:
        self._told = Console(stderr=True, highlight=False)
        self._name, self._all = name, blocks
        self._kept, self._began, self._said = 0, time.monotonic(), time.monotonic()

    def plan(self, comparisons: Sequence[str], *, blocks: int, deadline: float) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def stage(self, comparison: str, text: str) -> None:
        """Nothing."""

    def stand(self, standing: Mapping[str, Stand], done: Mapping[str, str]) -> None:
        """Nothing."""

    def begin(self, planned: Planned) -> None:
        """Nothing."""

    def certified(self, comparison: str, arm: str, certificate: parity.Certificate) -> None:
        """Nothing."""

    def failed(self, record: Mapping[str, Any], outcome: Mapping[str, Any], log: str) -> None:
        """Nothing."""

    def kept(self, record: Mapping[str, Any]) -> None:
        """A block is on disk."""
        self._kept += 1
        now = time.monotonic()
        if now - self._said >= _SAY_EVERY_S:
            self._said = now
            rate = self._kept / (now - self._began)
            self._told.print(f"{self._name}: {self._kept} of {self._all} blocks, {rate:.1f} a second", soft_wrap=True)
