"""Whether a user gets the right word, quiet and beside other programs: runs of four contrasts, as `quick` has them.

One run holds a difference of 10, 25 and 100 % more work and the same work on both sides, eight blocks each, judged as
any run is: Holm over its four contrasts, drift and disturbance asked. The load is the validation's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from bench import cpus, stats
from bench.validate import load
from bench.validate.campaign import USUAL, Pair, campaign, noisy
from bench.validate.row import Row, at_least, at_most, not_above, not_below

FACTORS = (1.10, 1.25, 2.00)
BLOCKS = 8
RUNS = {False: 1, True: 100}  # of four contrasts under each load, quick and full
LEAST = {"quiet": 0.95, "beside bursts of 25 % on every CPU": 0.95, "beside a busy process on the arms' CPU": 0.80}
PAIRED_SD = 0.01


def rows(*, full: bool, launcher: str, out: Path, seed: int) -> Iterator[Row]:
    """The right word, and the wrong ones of equal arms, under each load."""
    placement = cpus.choose([1])
    null: list[Mapping[str, Any]] = []
    for number, (name, least) in enumerate(LEAST.items()):
        with _load(number, placement):
            found = _runs(f"usable{number}", full=full, launcher=launcher, out=out, seed=seed, placement=placement)
        different = [one for index, one in enumerate(found) if index % (len(FACTORS) + 1)]
        if number:  # equal arms in quiet are what the part `same` is about
            null += [one for index, one in enumerate(found) if not index % (len(FACTORS) + 1)]
        hits = sum(one["verdict"] == "slower" for one in different)
        judge = at_least if full else not_below
        title = f"10, 25 and 100 % more work called slower in {BLOCKS} blocks, {name}"
        yield judge(title, hits, len(different), least, wanted=len(different), detail=_words(different))
    wrong = sum(one["verdict"] in ("faster", "slower") for one in null)
    ceiling = at_most if full else not_above
    yield ceiling(
        "equal arms called faster or slower, under both loads", wrong, len(null), stats.ALPHA, detail=_words(null)
    )


def _load(number: int, placement: cpus.Placement) -> AbstractContextManager[Any]:
    (arms,) = placement.arms[1]
    return (nullcontext(), load.bursts(), load.pinned(arms))[number]


def _runs(
    name: str, *, full: bool, launcher: str, out: Path, seed: int, placement: cpus.Placement
) -> list[Mapping[str, Any]]:
    """The contrasts of run after run, four each: equal arms, then those with more work."""
    pairs = [Pair(baseline=noisy(PAIRED_SD), arm=noisy(PAIRED_SD, work=factor)) for factor in (1.0, *FACTORS)]
    found: list[Mapping[str, Any]] = []
    for run in range(RUNS[full]):
        how: dict[str, Any] = {"launcher": launcher, "out": out, "seed": seed + run, "placement": placement}
        found += campaign(f"{name}-{run}", pairs, blocks=BLOCKS, plan=USUAL, **how)
    return found


def _words(contrasts: Sequence[Mapping[str, Any]]) -> str:
    """How often each verdict was given, and how many carried a caveat."""
    counted = Counter(str(one["verdict"]).replace("_", " ") for one in contrasts)
    told = ", ".join(f"{count} {word}" for word, count in counted.most_common()) or "nothing was measured"
    return f"{told}; {sum(bool(one['caveats']) for one in contrasts)} with a caveat"
