"""The error rates of `bench.stats` on times whose truth is known: numbers alone, seeded, no worker and no clock.

Every row draws times of two arms, slice by slice, and drives what a run is judged with: `log_ratios`,
`block_log_ratio`, `contrast`, `cell_figure`, `drift`, `holm` and `schedule.enough`. A scenario says how times scatter.
Its arms are exchangeable, or differ by factors whose logarithm has mean 0, so that the expectation of d is exactly
the log of the ratio asked for, whatever the scatter: this is the true ratio that intervals are held against.
"""

from __future__ import annotations

import gc
import math
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from bench import stats
from bench.planning import schedule, warmup
from bench.validate.processes import FALSE_DRIFT
from bench.validate.row import Row, at_least, at_most, not_above, not_below, outcome, percent

Array = npt.NDArray[np.float64]
Scenario = Callable[[np.random.Generator, int, int], Array]
"""(generator, runs, blocks) -> log step times up to a constant (runs, blocks, 2, ROUNDS, STEPS), baseline first."""

RUNS = {False: 1_000, True: 20_000}  # of a row, quick and full
ROUNDS = 16  # of a block, the fewest that `slices.slice_plan` gives quick steps
STEPS = 8  # of a slice
PAIRED_SD = 0.015  # of d over blocks
STEP_SD = 0.03  # of a step's log time in its process
ROUND_SD = 0.02  # of one round's log ratio; slices were seen to spread 1.3–1.7 % on either side

COVERAGE = 0.93
CELL_COVERAGE = 0.95
FALSE_EQUIVALENCE = 0.065
CAUGHT_DRIFT = 0.95
WARM_BIAS = 0.01
DRIFT = 0.03  # by which one arm slows through a block
FAMILY = 8
PILOT_STEPS = 400

_CHUNK = 100  # runs drawn at a time: tens of MB
_REFERENCE = 4_000  # runs whose trials give a cell's true median
_COMPARED = 100  # intervals of cells held one by one against those computed all at once


@dataclass(frozen=True, kw_only=True)
class Precision:
    """A budget that ends on the half-width alone, at 40 blocks at the latest."""

    half_width: float = 0.01
    blocks: int | None = None
    max_blocks: int = 40
    per_comparison_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Known:
    """A true difference, half of the runs in either direction.

    power  share of runs that must find it; None where none need
    part   of all runs: a difference that is never missed takes fewer
    """

    ratio: float
    blocks: int
    spread: float = PAIRED_SD
    power: float | None = None
    part: float = 1.0


KNOWN = (
    Known(ratio=1.05, blocks=10, power=0.99, part=0.5),
    Known(ratio=1.10, blocks=10, power=0.999, part=0.5),
    Known(ratio=1.02, blocks=12, power=0.95),
    Known(ratio=1.02, blocks=10, spread=0.005),
    Known(ratio=1.02, blocks=20, spread=0.03),
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Blocks for the drift gate, round by round.

    own     growth of one side's log time from the first round to the last; of the baseline in every other run
    shared  the same of both sides
    """

    rounds: int = ROUNDS
    round_sd: float = ROUND_SD
    own: float = 0.0
    shared: float = 0.0

    def log_times(self, generator: np.random.Generator, runs: int, blocks: int) -> Array:
        """Log times up to a constant, (runs, blocks, 2, rounds)."""
        processes = PAIRED_SD / math.sqrt(2) * generator.standard_normal((runs, blocks, 2, 1))
        noise = self.round_sd / math.sqrt(2) * generator.standard_normal((runs, blocks, 2, self.rounds))
        course = np.linspace(0, 1, self.rounds)
        turns = generator.permuted(np.broadcast_to([0.0, 0.5], (runs, blocks, self.rounds, 2)), axis=-1)
        times = processes + noise + self.shared * (course[:, None] + turns / self.rounds).swapaxes(-1, -2)
        times[::2, :, 0] += self.own * course
        times[1::2, :, 1] += self.own * course
        return np.asarray(times)


def rows(*, full: bool, seed: int = 0) -> Iterator[Row]:
    """Every simulated row: 1,000 runs each, twenty times as many in full."""
    runs = RUNS[full]
    with ProcessPoolExecutor() as pool:  # every row draws from a generator of its own: the order changes no number
        parts = [pool.submit(_all, part, times * runs, seed) for part, times in PARTS.items()]
        for part in parts:
            yield from part.result()


def _all(part: Callable[..., Iterator[Row]], runs: int, seed: int) -> list[Row]:
    return list(part(runs=runs, seed=seed))


# --- how times scatter


def plain(generator: np.random.Generator, runs: int, blocks: int, *, spread: float = PAIRED_SD) -> Array:
    """A normal factor a process and one a step, so that d has the standard deviation `spread` over blocks."""
    processes = _process_sd(spread) * generator.standard_normal((runs, blocks, 2, 1, 1))
    return np.asarray(processes + _steps(generator, runs, blocks))


def heavy_tails(generator: np.random.Generator, runs: int, blocks: int) -> Array:
    """Processes by Student's t with 3 degrees of freedom; of the steps 1 % are spikes by a Pareto of shape 1.5."""
    processes = _process_sd() / math.sqrt(3) * generator.standard_t(3, (runs, blocks, 2, 1, 1))
    steps = _steps(generator, runs, blocks)
    spikes = np.log1p(generator.pareto(1.5, steps.shape)) * (generator.random(steps.shape) < 0.01)
    return np.asarray(processes + steps + spikes)


def autocorrelated(generator: np.random.Generator, runs: int, blocks: int) -> Array:
    """Steps of a process as AR(1) with ρ = .9, stationary from the first."""
    from scipy import signal

    rho = 0.9
    drawn = STEP_SD * generator.standard_normal((runs, blocks, 2, ROUNDS * STEPS))
    drawn[..., 1:] *= math.sqrt(1 - rho**2)
    steps = signal.lfilter([1.0], [1.0, -rho], drawn)
    processes = _process_sd() * generator.standard_normal((runs, blocks, 2, 1, 1))
    return np.asarray(processes + np.reshape(steps, (runs, blocks, 2, ROUNDS, STEPS)))


def two_modes(generator: np.random.Generator, runs: int, blocks: int) -> Array:
    """Half of the arm's processes are 3 % slower than the other half, in mean log as fast as the baseline."""
    times = plain(generator, runs, blocks)
    times[:, :, 1] += 0.03 * (generator.integers(0, 2, (runs, blocks, 1, 1)) - 0.5)
    return times


def shared_drift(generator: np.random.Generator, runs: int, blocks: int) -> Array:
    """The machine slows by 20 % through a run and by 5 % through each block; a slice later in a round meets more."""
    through_run = math.log(1.2) * np.linspace(0, 1, blocks)[:, None, None]
    turns = generator.permuted(np.broadcast_to([0.0, 0.5], (runs, blocks, ROUNDS, 2)), axis=-1)
    through_block = math.log(1.05) * (np.arange(ROUNDS) + np.swapaxes(turns, -1, -2)) / ROUNDS
    return np.asarray(plain(generator, runs, blocks) + through_run[..., None] + through_block[..., None])


def slow_starts(generator: np.random.Generator, runs: int, blocks: int) -> Array:
    """An exponential warm-up not quite over: 2 % at first and gone by e every 2 rounds, the arm 5 % and every 3.

    How much is left varies with the process (gamma of shape 4). The true ratio is that of the rounds as measured:
    the mean of what is left is taken off, its scatter stays.
    """
    left, decay = np.array([0.02, 0.05]), np.array([2.0, 3.0])
    amount = generator.gamma(4.0, 0.25, (runs, blocks, 2, 1, 1))
    course = left[:, None] * np.exp(-np.arange(ROUNDS) / decay[:, None])
    left_over = amount * course[..., None] - course.mean(axis=1)[:, None, None]
    return np.asarray(plain(generator, runs, blocks) + left_over)


SCENARIOS: tuple[Scenario, ...] = (heavy_tails, autocorrelated, two_modes, shared_drift, slow_starts)
Cases = Sequence[tuple[Scenario, int]]
# With 20 blocks only where d is not normal: elsewhere ten have shown it.
NULLS: Cases = (*((scenario, 10) for scenario in SCENARIOS), (heavy_tails, 20), (two_modes, 20), (slow_starts, 20))
CELLS: Cases = tuple((scenario, trials) for trials in (10, 20) for scenario in SCENARIOS)


# --- rows


def under_the_null(*, runs: int, seed: int = 0, cases: Cases = NULLS) -> Iterator[Row]:
    """Coverage and false positives of equal arms, then the latter for families of eight of these contrasts."""
    p: list[list[float | None]] = []
    for scenario, blocks in cases:
        label = f"{_words(scenario)}, {blocks} blocks"
        estimates = [stats.contrast(d) for d in _d(_generator(seed, label), scenario, np.ones(runs), blocks)]
        p.append([estimate.p for estimate in estimates])
        yield at_least(f"coverage, {label}", sum(_covers(one, 1.0) for one in estimates), runs, COVERAGE)
        yield _false_positives(label, estimates)
    mixed = [value for run in zip(*p, strict=True) for value in run]
    with _nothing_to_collect():
        families = [stats.holm(mixed[start : start + FAMILY]) for start in range(0, len(mixed) - FAMILY + 1, FAMILY)]
    wrong = sum(any(_significant(value) for value in family) for family in families)
    yield not_above(f"false positives after Holm, {FAMILY} contrasts a family", wrong, len(families), stats.ALPHA)


def sequential(*, runs: int, seed: int = 0, scenarios: Sequence[Scenario] = (shared_drift, two_modes)) -> Iterator[Row]:
    """Coverage and false positives of equal arms where a look at the half-width follows every block.

    The coverage lost is real and near the goal, about 1.5 points with two modes: hence the interval decides.
    """
    budget, least = Precision(), stats.k_min(1)
    for scenario in scenarios:
        label = f"{_words(scenario)}, until ± {percent(budget.half_width)}"
        estimates = []
        for d in _d(_generator(seed, label), scenario, np.ones(runs), budget.max_blocks):
            stop = least
            while not schedule.enough([d[:stop].tolist()], budget, least):
                stop += 1
            estimates.append(stats.contrast(d[:stop]))
        detail = f"{sum(estimate.blocks for estimate in estimates) / runs:.1f} blocks on average"
        covered = sum(_covers(estimate, 1.0) for estimate in estimates)
        yield not_below(f"coverage, {label}", covered, runs, COVERAGE, detail=detail)
        yield _false_positives(label, estimates, detail=detail)


def cells(*, runs: int, seed: int = 0, cases: Cases = CELLS) -> Iterator[Row]:
    """Coverage of a cell's median over trials; the truth is the median of all trials of 4,000 other runs."""
    for scenario, count in cases:
        name = f"coverage of cells, {_words(scenario)}, {count} trials"
        generator = _generator(seed, name)
        truth = float(np.median(_trials(generator, scenario, _REFERENCE, count)))
        trials = _trials(generator, scenario, runs, count)
        intervals = _order_statistics(trials)
        if intervals is None:
            fault = "cell_figure gives no interval, or one that is not of order statistics"
            goal = f"≥ {percent(CELL_COVERAGE)}"
            yield Row(name=name, n=0, value=None, ci=None, goal=goal, outcome="failed", detail=fault)
            continue
        covered = int(np.sum((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])))
        yield at_least(name, covered, runs, CELL_COVERAGE)


def known_differences(*, runs: int, seed: int = 0, known: Sequence[Known] = KNOWN) -> Iterator[Row]:
    """How often a true difference is found, covered and, where it is exactly θ, taken for equivalence."""
    for case in known:
        label = f"{percent(case.ratio - 1)} apart, spread {percent(case.spread)}, {case.blocks} blocks"
        some = round(runs * case.part)
        truths = case.ratio ** np.where(np.arange(some) % 2, 1.0, -1.0)
        scenario = partial(plain, spread=case.spread)
        estimates = [stats.contrast(d) for d in _d(_generator(seed, label), scenario, truths, case.blocks)]
        pairs = list(zip(estimates, truths.tolist(), strict=True))
        if case.power is not None:
            yield at_least(f"found, {label}", sum(_finds(*pair) for pair in pairs), some, case.power)
        yield at_least(f"recovery, {label}", sum(_covers(*pair) for pair in pairs), some, COVERAGE)
        if case.ratio == 1 + stats.THETA:
            equal = sum(_significant(estimate.p_equal) for estimate in estimates)
            yield at_most(f"false equivalence, {label}", equal, some, FALSE_EQUIVALENCE)


def drifts(*, runs: int, seed: int = 0) -> Iterator[Row]:
    """How often the drift gate speaks: of one arm that slows, of a machine that slows under both, of steady arms."""

    def alarms(name: str, block: Block, blocks: int) -> tuple[int, str]:
        detail = f"{block.rounds} rounds whose log ratio spreads by {percent(block.round_sd)}"
        return _alarms(_generator(seed, name), block, runs, blocks), detail

    for rounds in (ROUNDS, 2 * ROUNDS):
        name = f"drift, one arm slows by {percent(DRIFT)}, {rounds} rounds, 10 blocks"
        found, detail = alarms(name, Block(rounds=rounds, own=DRIFT), 10)
        yield at_least(name, found, runs, CAUGHT_DRIFT, detail=detail)
    for blocks in (6, 8, 10, 12, 20):
        name = f"drift, steady arms, {blocks} blocks"
        found, detail = alarms(name, Block(), blocks)
        yield not_above(name, found, runs, FALSE_DRIFT, detail=detail)
    name = "drift, the machine slows under both arms, 10 blocks"
    found, detail = alarms(name, Block(shared=0.05, round_sd=ROUND_SD / 2), 10)
    yield at_most(name, found, runs, 0.0, detail=detail)


def warm_ups(*, runs: int, seed: int = 0) -> Iterator[Row]:
    """What is left of a slow start in the steps of a block, after a warm-up by change points."""
    step = np.arange(PILOT_STEPS + ROUNDS * STEPS, dtype=np.float64)
    courses: dict[str, Array] = {
        "exponential, 30 %": 0.3 * np.exp(-step / 20),
        "10 % for 40 steps": 0.1 * (step < 40).astype(float),
    }
    for words, course in courses.items():
        name = f"warm-up, bias left, {words}"
        noise = STEP_SD * _generator(seed, name).standard_normal((runs, PILOT_STEPS))
        skipped = [warmup.warm_up_steps(list(1e6 * np.exp(course[:PILOT_STEPS] + one))).steps for one in noise]
        left = [_left(course, steps) for steps in skipped]
        bias, half = float(np.mean(left)), stats.half_width(left)
        fixed = " and ".join(f"{100 * _left(course, steps):.2g} % after {steps}" for steps in (3, 10))
        found = outcome(bias <= WARM_BIAS, (bias - half, bias + half), high=WARM_BIAS)
        more = "; more of them would decide" if found == "undecided" else ""
        yield Row(
            name=name,
            n=runs,
            value=bias,
            ci=(bias - half, bias + half),
            goal=f"≤ {percent(WARM_BIAS)}",
            outcome=found,
            unit="share",
            detail=f"a fixed number would leave {fixed}{more}",
        )


# Every part, and how many times the runs of a row it takes: cells are judged closer, and cost less.
PARTS: dict[Callable[..., Iterator[Row]], int] = {
    under_the_null: 1,
    sequential: 1,
    cells: 5,
    known_differences: 1,
    drifts: 1,
    warm_ups: 1,
}


def _false_positives(label: str, estimates: Sequence[stats.Contrast], *, detail: str = "") -> Row:
    wrong = sum(_significant(estimate.p) for estimate in estimates)
    return not_above(f"false positives, {label}", wrong, len(estimates), stats.ALPHA, detail=detail)


# --- from times to numbers


def _d(generator: np.random.Generator, scenario: Scenario, ratios: Array, blocks: int) -> Array:
    """One d a block of every run, (runs, blocks); ratios are the true ones, (runs,)."""
    found: list[list[float]] = []
    for some in _chunks(ratios):
        times = np.exp(scenario(generator, len(some), blocks)).mean(axis=-1)  # (runs, blocks, 2, rounds)
        for run, ratio in zip(times, some, strict=True):
            by_round = stats.log_ratios(run[:, 0], run[:, 1] / ratio)
            found.append([stats.block_log_ratio(block) for block in by_round])
    return np.array(found)


def _trials(generator: np.random.Generator, scenario: Scenario, runs: int, blocks: int) -> Array:
    """The arm's mean step time in each of its trials, (runs, blocks)."""
    parts = [
        np.exp(scenario(generator, len(some), blocks)[:, :, 1]).mean(axis=(-1, -2)) for some in _chunks(np.ones(runs))
    ]
    return np.concatenate(parts)


def _order_statistics(trials: Array) -> Array | None:
    """The interval of `cell_figure` for every run, (runs, 2), computed at once; None where it cannot be.

    Its ranks are read off the interval of 0, 1, 2 …, and the first hundred runs are held against `cell_figure` itself.
    """
    ranked = stats.cell_figure(range(trials.shape[1]))
    if ranked is None or ranked.ci is None:
        return None
    found = np.sort(trials, axis=1)[:, [int(end) for end in ranked.ci]]
    for values, interval in zip(trials[:_COMPARED], found, strict=False):
        figure = stats.cell_figure(values)
        if figure is None or figure.ci != tuple(interval):
            return None
    return found


def _alarms(generator: np.random.Generator, block: Block, runs: int, blocks: int) -> int:
    """Runs of so many blocks of which the gate says that they drift."""
    found = 0
    for some in _chunks(np.ones(runs)):
        times = np.exp(block.log_times(generator, len(some), blocks))
        for run in times:
            found += stats.drift(list(stats.log_ratios(run[:, 0], run[:, 1]))).verdict is not None
    return found


def _left(course: Array, steps: int) -> float:
    """The mean of what a block's steps still have of a slow start after so many steps."""
    return float(np.mean(course[steps : steps + ROUNDS * STEPS]))


def _chunks(values: Array) -> Iterator[Array]:
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))


def _steps(generator: np.random.Generator, runs: int, blocks: int) -> Array:
    return STEP_SD * generator.standard_normal((runs, blocks, 2, ROUNDS, STEPS))


def _process_sd(spread: float = PAIRED_SD) -> float:
    """Of one arm's log time over fresh processes, such that with the steps' noise d spreads by `spread`."""
    return math.sqrt(spread**2 / 2 - STEP_SD**2 / (ROUNDS * STEPS))


def _covers(estimate: stats.Contrast, truth: float) -> bool:
    return estimate.ci is not None and estimate.ci[0] <= truth <= estimate.ci[1]


def _finds(estimate: stats.Contrast, truth: float) -> bool:
    """Significant, and on the right side."""
    return _significant(estimate.p) and estimate.ratio is not None and (estimate.ratio > 1) == (truth > 1)


def _significant(p: float | None) -> bool:
    return p is not None and p < stats.ALPHA


@contextmanager
def _nothing_to_collect() -> Iterator[None]:
    """Every call of statsmodels' multipletests begins with a full collection: 65 ms with scipy loaded."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _words(scenario: Scenario) -> str:
    return scenario.__name__.replace("_", " ")


def _generator(seed: int, name: str) -> np.random.Generator:
    """Every row's own: its numbers do not depend on which rows came before it."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def main() -> None:
    """All rows, 1,000 runs each or with `--full` 20,000; exit code 1 where one failed. `nox -s simulation`."""
    found = []
    for row in rows(full="--full" in sys.argv[1:]):
        print(row.line, flush=True)
        found.append(row)
    sys.exit(any(row.outcome == "failed" for row in found))


if __name__ == "__main__":
    main()
