"""The case for lockstep, measured: machine time to the same interval, by three designs that take turns in one run.

Each cycle runs as many processes of both arms in each design, the designs in random order:

    one after the other   all processes of one arm, then all of the other, as pyperf and pytest-benchmark do
    interleaved           a fresh process of one arm, then one of the other, in random order
    lockstep              a fresh process of each, taking turns slice by slice

A cycle gives one log ratio a design. Its variance over cycles times the cycle's machine time is what an interval of a
given width costs, set-up included.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import launch, stats
from bench.errors import BenchError
from bench.launch import cache as compile_caches
from bench.launch.group import Group
from bench.launch.provide import provide
from bench.machine import cpus
from bench.matrix.comparison import Arm, Comparison
from bench.matrix.need import Need
from bench.measure import certify, lockstep, provenance
from bench.measure.lockstep import Bench, ask
from bench.planning import schedule
from bench.planning.schedule import Planned
from bench.provision import mnist
from bench.validate.campaign import Quiet
from bench.validate.frameworks import training_cell
from bench.validate.row import Row, outcome

if TYPE_CHECKING:
    from bench.planning.slices import Plan

DESIGNS = ("one after the other", "interleaved", "lockstep")
PROCESSES = 2  # of each arm, in each design of a cycle
CYCLES = 12
GOAL = 10.0
PAIRS = (("TensorFlow against PyTorch", "tensorflow", "pytorch"), ("A/A", "pytorch", "pytorch"))


@dataclass(frozen=True, kw_only=True)
class Cycle:
    """What one cycle gave: a log ratio and seconds of machine time, by design."""

    log_ratio: Mapping[str, float]
    seconds: Mapping[str, float]


def rows(*, out: Path, seed: int, cycles: int = CYCLES) -> Iterator[Row]:
    """Two rows a pair: one after the other against lockstep, and interleaved against lockstep."""
    out.mkdir(parents=True, exist_ok=True)
    for name, baseline, arm in PAIRS:
        found = _measured(name, _comparison(baseline, arm), out, seed, cycles)
        yield _row(name, found, "one after the other", goal=GOAL)
        yield _row(name, found, "interleaved", goal=1.0)


def cost_ratio(found: Sequence[Cycle], design: str) -> tuple[float, tuple[float, float]]:
    """Machine time of `design` ÷ that of lockstep to the same interval, with the F interval of a variance ratio.

    found  at least 3 cycles
    """
    from scipy import stats as scipy_stats

    variances, seconds = {}, {}
    for name in (design, "lockstep"):
        variances[name] = statistics.variance([cycle.log_ratio[name] for cycle in found])
        seconds[name] = statistics.fmean([cycle.seconds[name] for cycle in found])
    value = variances[design] * seconds[design] / (variances["lockstep"] * seconds["lockstep"])
    freedom = len(found) - 1
    quantile = float(scipy_stats.f.ppf(0.5 + stats.CONFIDENCE / 2, freedom, freedom))
    return value, (value / quantile, value * quantile)


def _row(name: str, found: Sequence[Cycle], design: str, *, goal: float) -> Row:
    value, ci = cost_ratio(found, design)
    decided = outcome(value >= goal, ci, low=goal)
    spreads = ", ".join(
        f"{one} {100 * statistics.stdev([cycle.log_ratio[one] for cycle in found]):.2f} % in "
        f"{statistics.fmean([cycle.seconds[one] for cycle in found]):.0f} s"
        for one in DESIGNS
    )
    return Row(
        name=f"machine time, {design} ÷ lockstep: {name}",
        n=len(found),
        value=value,
        ci=ci,
        goal=f"≥ {goal:g}",
        outcome=decided,
        unit="times",
        detail=f"mnist_cnn, train, eager, {PROCESSES} processes of each arm a cycle; standard deviation of a cycle's "
        f"ratio and its machine time: {spreads}" + ("; more cycles would decide" if decided == "undecided" else ""),
    )


def _measured(name: str, comparison: Comparison, out: Path, seed: int, cycles: int) -> list[Cycle]:
    """The cycles kept so far, and as many more as are missing."""
    journal = out / f"{comparison.id}.jsonl"
    kept = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
    found = [Cycle(**json.loads(line)) for line in kept]
    if len(found) >= cycles:
        return found
    placement = cpus.choose([1])
    with compile_caches.compile_cache(f"validate-{provenance.fresh_id()}") as cache, cpus.confined(placement.control):
        view = Quiet(name, 0)
        dataset = mnist.require(view.say)
        place = launch.Place(run_id="validate", cache=cache, data=dataset.folder, base=None)
        launcher, _ = provide("local", [Need.of(arm.cell) for arm in comparison.arms], place, view.say)
        bench = Bench(launcher=launcher, sampler=None, arm_cpus=placement.arms, seed=seed, data=dataset.folder)
        prologue = certify.begin(bench, comparison, cache=cache, control_cpus=placement.control, view=view)
        if prologue.plan is None:
            raise BenchError(f"{comparison.id}: no certificate, so that nothing is measured; see bench parity")
        with journal.open("a", encoding="utf-8") as handle:
            for number in range(len(found), cycles):
                cycle = _cycle(bench, comparison, prologue.plan, number)
                handle.write(json.dumps({"log_ratio": cycle.log_ratio, "seconds": cycle.seconds}) + "\n")
                handle.flush()
                found.append(cycle)
    return found


def _cycle(bench: Bench, comparison: Comparison, plan: Plan, number: int) -> Cycle:
    generator = random.Random(f"{bench.seed}/{comparison.id}/{number}")
    log_ratio, seconds = {}, {}
    for design in generator.sample(DESIGNS, len(DESIGNS)):
        began = time.monotonic()
        log_ratio[design] = _estimate(design, bench, comparison, plan, number, generator)
        seconds[design] = round(time.monotonic() - began, 2)
    return Cycle(log_ratio=log_ratio, seconds=seconds)


def _estimate(
    design: str, bench: Bench, comparison: Comparison, plan: Plan, number: int, generator: random.Random
) -> float:
    """One cycle's log ratio, t_baseline ÷ t_arm, by a design."""
    arms = list(comparison.arms)
    if design == "lockstep":
        return statistics.fmean(_block(bench, comparison, plan, number * PROCESSES + k) for k in range(PROCESSES))
    generator.shuffle(arms)
    if design == "one after the other":
        order = [arm for arm in arms for _ in range(PROCESSES)]
    else:
        order = [arm for _ in range(PROCESSES) for arm in generator.sample(arms, len(arms))]
    logs: dict[str, list[float]] = {arm.id: [] for arm in arms}
    for position, arm in enumerate(order):
        logs[arm.id].append(_alone(bench, arm, plan, Planned(comparison=comparison.id, block=number, attempt=position)))
    baseline, other = comparison.baseline, next(arm.id for arm in arms if arm.id != comparison.baseline)
    return statistics.fmean(logs[baseline]) - statistics.fmean(logs[other])


def _block(bench: Bench, comparison: Comparison, plan: Plan, number: int) -> float:
    block = lockstep.measure_block(bench, comparison, Planned(comparison=comparison.id, block=number), plan)
    logs = {arm.id: _mean_log(block.samples, arm.id) for arm in comparison.arms}
    other = next(arm.id for arm in comparison.arms if arm.id != comparison.baseline)
    return logs[comparison.baseline] - logs[other]


def _alone(bench: Bench, arm: Arm, plan: Plan, planned: Planned) -> float:
    """The mean log step time of one fresh process that runs by itself."""
    samples: list[dict[str, Any]] = []
    with Group() as group:
        lockstep.start(bench, group, arm, schedule.padding(arm.id, planned, bench.seed), {})
        ask(group, arm.id, "warm", limit_s=600.0, steps=plan.warm_steps[arm.id])
        steps = plan.slices.steps[arm.id]
        for number in range(plan.slices.rounds):
            answer = ask(
                group, arm.id, "measure", limit_s=600.0, steps=steps, settle=plan.slices.settle_steps, sync="slice"
            )
            samples += lockstep.rows(answer, arm.id, number, 0, "slice", steps)
        ask(group, arm.id, "close", limit_s=lockstep.CLOSE_LIMIT_S)
    return _mean_log(samples, arm.id)


def _mean_log(samples: Sequence[Mapping[str, Any]], arm: str) -> float:
    """Mean over slices of the log of a step's time."""
    slices = [row for row in samples if row["arm"] == arm and row["sync"] == "slice" and not row["settling"]]
    return statistics.fmean(math.log(row["time_ns"] / row["steps"]) for row in slices)


def _comparison(baseline: str, arm: str) -> Comparison:
    cells = [training_cell("mnist_cnn", name, launcher="local") for name in (baseline, arm)]
    arms = tuple(Arm(id=side, cell=cell) for side, cell in zip(("baseline", "arm"), cells, strict=True))
    return Comparison(id=f"{baseline}-{arm}", compare=("framework",), arms=arms, baseline="baseline")


def main() -> None:
    """All rows, into the folder that is named; what is kept there is not measured again. `nox -s machine_time`."""
    for row in rows(out=Path(sys.argv[1]), seed=0):
        print(row.line, flush=True)


if __name__ == "__main__":
    main()
