"""Whether a user gets the right word, quiet and beside other programs: contrasts judged by fours, as `quick` has them.

Of four, one does the same work on both sides and three 10, 25 and 100 % more on one, eight blocks each, judged as any
run is: Holm over the four, drift and disturbance asked. Each equal pair is judged once more by itself, where nothing is
corrected and most is claimed. The load is the validation's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import stats, store
from bench.estimate import summary
from bench.machine import cpus
from bench.validate import load
from bench.validate.campaign import USUAL, Pair, matrix_of, measured, noisy, prepared
from bench.validate.row import Row, at_least, at_most, not_above, not_below

if TYPE_CHECKING:
    from bench.store import StoredRun

FACTORS = (1.0, 1.10, 1.25, 2.00)
BLOCKS, LONGEST_S = 8, 20.0  # of a contrast, as `quick` limits it: beside a busy process every block is repeated
SETS = {False: 1, True: 50}  # of four contrasts under each load, quick and full
LEAST = {"quiet": 0.95, "beside bursts of 25 % on every CPU": 0.95, "beside a busy process on the arms' CPU": 0.80}
TITLES = {name: f"10, 25 and 100 % more work called slower in {BLOCKS} blocks, {name}" for name in LEAST}
EQUAL_TITLE = "equal arms called faster or slower, under both loads"
PAIRED_SD = 0.01
NARROW = 0.05  # half-width that `quick` asks for

Contrast = Mapping[str, Any]


def rows(*, full: bool, launcher: str, out: Path, seed: int) -> Iterator[Row]:
    """The right word, and the wrong ones of equal arms, under each load."""
    placement = cpus.choose([1])
    equal: list[Contrast] = []
    for number, (name, least) in enumerate(LEAST.items()):
        with _load(number, placement):
            stored = _measured(f"usable{number}", full=full, launcher=launcher, out=out, seed=seed, placement=placement)
        different = [one for four in _in_groups(stored, len(FACTORS)) for one in four[1:]]
        if number:  # equal arms in quiet are what the part `same` is about
            equal += [one for (one, *_) in _in_groups(stored, 1)[:: len(FACTORS)]]
        judged = [one for one in different if _is_narrow(one)]
        hits = sum(one["verdict"] == "slower" for one in judged)
        judge = at_least if full else not_below
        yield judge(TITLES[name], hits, len(judged), least, wanted=len(different), detail=_words(different))
    wrong = sum(one["verdict"] in ("faster", "slower") for one in equal)
    ceiling = at_most if full else not_above
    yield ceiling(EQUAL_TITLE, wrong, len(equal), stats.ALPHA, detail=_words(equal))


def _is_narrow(one: Contrast) -> bool:
    """Whether its interval could show a tenth: where the host makes it wider, nothing is said of the harness."""
    return one["half_width"] is not None and one["half_width"] <= NARROW


def _load(number: int, placement: cpus.Placement) -> AbstractContextManager[Any]:
    (arms,) = placement.arms[1]
    return (nullcontext(), load.bursts(), load.pinned(arms))[number]


def _measured(name: str, *, full: bool, launcher: str, out: Path, seed: int, placement: cpus.Placement) -> StoredRun:
    """One run of as many contrasts as are wanted."""
    pairs = [Pair(baseline=noisy(PAIRED_SD), arm=noisy(PAIRED_SD, work=factor)) for factor in FACTORS] * SETS[full]
    matrix = matrix_of(name, pairs, blocks=BLOCKS, launcher=launcher, seed=seed, per_comparison_s=LONGEST_S)
    given = prepared(matrix.comparisons, USUAL, placement)
    return store.read(measured(matrix, out=out, launcher=launcher, prepared=given))


def _in_groups(stored: StoredRun, size: int) -> list[list[Contrast]]:
    """The contrasts of so many comparisons at a time, each group judged as if it were a run of its own."""
    names = list(stored.run["comparisons"])
    groups = [names[start : start + size] for start in range(0, len(names), size)]
    return [summary.summarise(_only(stored, group))["contrasts"] for group in groups]


def _only(stored: StoredRun, names: Sequence[str]) -> StoredRun:
    """The run as if it had held these comparisons alone."""
    own = {name: stored.run["comparisons"][name] for name in names}
    return replace(
        stored,
        run={**stored.run, "comparisons": own},
        blocks=[record for record in stored.blocks if record["comparison"] in own],
        certificates=[record for record in stored.certificates if record["comparison"] in own],
    )


def _words(contrasts: Sequence[Contrast]) -> str:
    """How often each verdict was given, and how many carried a caveat."""
    counted = Counter(str(one["verdict"]).replace("_", " ") for one in contrasts)
    told = ", ".join(f"{count} {word}" for word, count in counted.most_common()) or "nothing was measured"
    return f"{told}; {sum(bool(one['caveats']) for one in contrasts)} with a caveat"
