"""What the harness says of stubs whose differences are known: false positives, known slowdowns, drift, linearity."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import stats
from bench.validate.campaign import LONG, MIDDLE, PAIRED_SD, Pair, Turns, campaign, noisy
from bench.validate.row import (
    CALMER,
    Row,
    at_least,
    at_most,
    clopper_pearson,
    not_above,
    not_below,
    outcome,
    percent,
    share,
)

if TYPE_CHECKING:
    from workloads.contract import Value

Contrast = Mapping[str, Any]

AA_MOST, AA_UPPER = 0.05, 0.07
FALSE_DRIFT = 0.01
AA_CONTRASTS = 102  # of a run: a hundred, and two that the machine may spoil
AA_WANTED = 100  # measured in all; where the machine spoils more, so many as are wanted are measured anew
AA_MORE_TIMES = 3
AA_BLOCKS = 7  # with them Wilcoxon's p can be .047, and is hardly more conservative than α
COVERED = 0.93
# The factor on the work, the blocks, and the share that must be found.
SLOWDOWNS = ((1.10, 10, 0.999), (1.05, 10, 0.99), (1.02, 12, 0.95))
QUICK_SLOWDOWNS = ((1.10, 6, 0.999),)  # a tenth is six SDs of a block: the six that Wilcoxon needs for .05 do
SLOWING = 0.03  # of one arm, through every block
# Half of the contrasts would pass a paired SD of 1.5 % if just that were injected: the machine adds its own.
INJECTED_SD = 0.005
DRIFT_BLOCKS = 10
QUICK_SLOWING = 2  # contrasts of each kind of drift
# Steps of the whole life of an arm of a LONG block are measured after WARM others; a third of them takes so much more.
_WARM_LONG = Turns(rounds=LONG.rounds, steps=LONG.steps, warm=LONG.measured_steps)
_STEPS = LONG.measured_steps
_STEEP = round(3 * SLOWING * 1000 / _STEPS, 6)
SLOWING_ARMS: dict[str, tuple[dict[str, Value], Turns]] = {
    "through the block": ({"slows": round(SLOWING * 1000 / _STEPS, 6)}, LONG),
    "only late": ({"slows": _STEEP, "slows_from": 2 * _STEPS // 3}, LONG),
    "only midway": ({"slows": _STEEP, "slows_from": _STEPS // 3, "slows_until": 2 * _STEPS // 3}, LONG),
    "after a long warm-up": ({"slows": round(SLOWING * 1000 / _STEPS, 6)}, _WARM_LONG),
}
WORSE_TITLE, SHARED_TITLE = "25 % more work and a drift: slower", "both arms slow alike: refused or marked"
CLAIMED = ("faster", "slower")
UNSTEADY = ("degrading", "no_steady_state")
SPOILED_SHARE = 0.2  # of the contrasts of a row, those that the machine may take away
WANTED = {False: 40, True: 80}  # contrasts that a known slowdown is looked for in, quick and full
# At most so many times the contrasts wanted, on a machine that is too noisy for most of them; and no more once those
# that are judged are so few that even as many could not be enough.
MOST_TIMES = 4
LINEAR = (1.95, 2.05)
SPARE = 1.1  # so many times as many as are still wanted, since some are not calm enough


def same(*, full: bool, launcher: str, out: Path, seed: int) -> Iterator[Row]:
    """The same arm on both sides, a hundred contrasts a run; an ordinary run inside `out`, found there again."""
    times = 10 if full else 1
    pair = Pair(baseline=noisy(), arm=noisy())
    place: dict[str, Any] = {"launcher": launcher, "out": out, "seed": seed}
    null: list[Contrast] = []
    for number in range(times + AA_MORE_TIMES):
        measured = len(_measured(null))
        more = AA_CONTRASTS if number < times else times * AA_WANTED - measured
        if more <= 0 or 2 * measured < len(null):  # asked again for what is missing, half never become all
            break
        null += campaign(f"aa{number}", [pair] * more, blocks=AA_BLOCKS, **place)
    yield _false_positives(null, full=full, wanted=times * AA_WANTED)
    yield _recovery([(one, 1.0) for one in null], full=full, where=", A/A")


def known(*, full: bool, launcher: str, out: Path, seed: int) -> Iterator[Row]:
    """More work on one side, by so much: found, and covered by the interval; twice the work takes twice the time."""
    place: dict[str, Any] = {"launcher": launcher, "out": out, "seed": seed}
    covered = []
    for factor, blocks, least in SLOWDOWNS if full else QUICK_SLOWDOWNS:
        found = _slowed(factor, blocks, WANTED[full], place)
        yield _power(factor, blocks, found, least, wanted=WANTED[full])
        covered += [(one, 1 / factor) for one in found]
    yield _recovery(covered, full=full)
    yield _linearity(place)


def in_containers(*, full: bool, out: Path, seed: int) -> Iterator[Row]:
    """The same through the container launcher. Raises EnvironmentUnavailable: no engine answers."""
    place: dict[str, Any] = {"launcher": "docker", "out": out, "seed": seed}
    count, blocks = (30, 10) if full else (3, 6)
    null = campaign("docker-aa", [Pair(baseline=noisy(), arm=noisy())] * count, blocks=blocks, **place)
    yield _false_positives(null, full=False, wanted=_left(count), where=", in containers")
    slower = [Pair(baseline=noisy(INJECTED_SD), arm=noisy(INJECTED_SD, work=1.10))] * count
    found = campaign("docker-slower110", slower, blocks=blocks, plan=MIDDLE, **place)
    whole = _whole(found, blocks)
    hits = sum(_is_found(one) for one in whole)
    name = f"10 % more work found in {blocks} blocks, in containers"
    detail = f"{_spreads(found)}; of {len(found)} contrasts"
    yield at_least(name, hits, len(whole), 0.99, wanted=_left(count), detail=detail)
    covered = [(one, 1.0) for one in null] + [(one, 1 / 1.10) for one in found]
    yield _recovery(covered, full=False, where=", in containers")


def _false_positives(contrasts: Sequence[Contrast], *, full: bool, wanted: int, where: str = "") -> Row:
    """By raw p, each contrast its own family: under Holm an A/A passes by having no power."""
    measured = _measured(contrasts)
    hits, n = sum(one["p"] < stats.ALPHA for one in measured), len(measured)
    name, detail = f"A/A false positives{where}", f"{_spreads(measured)}; {_left_out(contrasts, measured)}"
    if not full or not measured:
        return not_above(name, hits, n, AA_MOST, wanted=wanted, detail=detail)
    low, high = clopper_pearson(hits, n)
    goal, holds = "lower bound ≤ 5 %, upper bound ≤ 7 %", low <= AA_MOST and high <= AA_UPPER
    return share(name, hits, n, goal=goal, holds=holds, high=AA_MOST, wanted=wanted, detail=detail)


def _measured(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Those of which no disturbed block counts: what the machine did is no evidence of the harness."""
    return [one for one in contrasts if one["p"] is not None and not _counts_disturbed(one)]


def _counts_disturbed(one: Contrast) -> bool:
    """Whether too few of its blocks were undisturbed for these alone to count."""
    told = next((caveat["figures"] for caveat in one["caveats"] if caveat["kind"] == "disturbed"), None)
    return told is not None and one["blocks"] == told["attempts"]


def _slowed(factor: float, blocks: int, wanted: int, place: Mapping[str, Any]) -> list[Contrast]:
    """Contrasts with so much more work on one side, until enough have the spread that the goal is stated for."""
    pair = Pair(baseline=noisy(INJECTED_SD), arm=noisy(INJECTED_SD, work=factor))
    found: list[Contrast] = []
    name = f"slower{round(100 * factor)}"
    for number in range(MOST_TIMES * wanted):  # one contrast a run would be the least
        calm = len(_calm(found, blocks))
        more = min(math.ceil(SPARE * (wanted - calm)), MOST_TIMES * wanted - len(found))
        if more <= 0 or MOST_TIMES * calm < len(found):
            break
        found += campaign(f"{name}-{number}", [pair] * more, blocks=blocks, plan=MIDDLE, **place)
    return found


def _whole(contrasts: Sequence[Contrast], blocks: int) -> list[Contrast]:
    """Those with a verdict and all the blocks that a goal is stated for: what the machine spoiled was not looked at."""
    return [one for one in _measured(contrasts) if one["blocks"] >= blocks]


def _calm(contrasts: Sequence[Contrast], blocks: int) -> list[Contrast]:
    """Those that have all their blocks, and no larger a paired SD than the goals are stated for."""
    return [one for one in _whole(contrasts, blocks) if one["spread"] <= PAIRED_SD]


def _power(factor: float, blocks: int, contrasts: Sequence[Contrast], least: float, *, wanted: int) -> Row:
    whole, calm = _whole(contrasts, blocks), _calm(contrasts, blocks)
    hits, everywhere = (sum(_is_found(one) for one in some) for some in (calm, contrasts))
    detail = (
        f"of contrasts with a paired SD ≤ 1.5 %; of all {len(contrasts)}, {everywhere} found; {_spreads(contrasts)}; "
        f"{len(contrasts) - len(whole)} not judged: the machine spoiled too many of their blocks"
    )
    name = f"{100 * (factor - 1):.0f} % more work found in {blocks} blocks"
    return at_least(name, hits, len(calm), least, wanted=wanted, detail=detail)


def _is_found(one: Contrast) -> bool:
    return one["p"] is not None and one["p"] < stats.ALPHA and one["ratio"] < 1


def _recovery(contrasts: Sequence[tuple[Contrast, float]], *, full: bool, where: str = "") -> Row:
    """Whether the intervals cover what was injected."""
    measured = [(one["ci"], truth) for one, truth in contrasts if one["ci"] and not _counts_disturbed(one)]
    hits = sum(ci[0] <= truth <= ci[1] for ci, truth in measured)
    judge = at_least if full else not_below
    return judge(f"the interval covers the injected ratio{where}", hits, len(measured), COVERED)


def drifts(*, full: bool, launcher: str, out: Path, seed: int) -> Iterator[Row]:
    """An arm that alone slows is not called slower for it; what is slower besides is; both slowing is the machine's."""
    place: dict[str, Any] = {"launcher": launcher, "out": out, "seed": seed}
    for number, (name, (knobs, turns)) in enumerate(SLOWING_ARMS.items()):
        count = 60 if full else QUICK_SLOWING
        pairs = [Pair(baseline=noisy(), arm=noisy() | knobs)] * count
        seen = _whole(campaign(f"drift{number}", pairs, blocks=DRIFT_BLOCKS, plan=turns, **place), DRIFT_BLOCKS)
        claimed = sum(one["verdict"] in CLAIMED for one in seen)
        title = _slowing_title(name)
        ceiling = at_most if full else not_above
        yield ceiling(title, claimed, len(seen), stats.ALPHA, wanted=_left(count), detail=_words(seen))
    knobs, turns = SLOWING_ARMS["through the block"]
    count = 60 if full else QUICK_SLOWING
    worse = [Pair(baseline=noisy(), arm=noisy(work=1.25) | knobs)] * count
    seen = _whole(campaign("drift-and-more", worse, blocks=DRIFT_BLOCKS, plan=turns, **place), DRIFT_BLOCKS)
    hits = sum(one["verdict"] == "slower" for one in seen)
    marked = sum("drift" in _kinds(one) for one in seen)
    detail = f"{_words(seen)}; {marked} with the caveat drift"
    title = WORSE_TITLE
    judge = at_least if full else not_below
    yield judge(title, hits, len(seen), 0.95, wanted=_left(count), detail=detail)
    shared = [Pair(baseline=noisy() | knobs, arm=noisy() | knobs)] * count
    both = _whole(campaign("drift-shared", shared, blocks=DRIFT_BLOCKS, plan=turns, **place), DRIFT_BLOCKS)
    hits = sum(one["verdict"] in UNSTEADY or "drift" in _kinds(one) for one in both)
    detail = f"{_words(both)}; no more often than steady arms"
    yield not_above(SHARED_TITLE, hits, len(both), FALSE_DRIFT, wanted=_left(count), detail=detail)


def drift_titles() -> list[str]:
    """The names of the rows on drifts."""
    return [*map(_slowing_title, SLOWING_ARMS), WORSE_TITLE, SHARED_TITLE]


def _slowing_title(name: str) -> str:
    return f"one arm slows by {percent(SLOWING)}, {name}: called faster or slower"


def _kinds(one: Contrast) -> set[str]:
    return {caveat["kind"] for caveat in one["caveats"]}


def _words(contrasts: Sequence[Contrast]) -> str:
    """How often each verdict was given: "5 inconclusive, 1 degrading"."""
    counted = Counter(str(one["verdict"]).replace("_", " ") for one in contrasts)
    return ", ".join(f"{count} {word}" for word, count in counted.most_common()) or "nothing was measured"


def _linearity(place: Mapping[str, Any]) -> Row:
    """Twice the work takes twice the time; where only disturbed blocks tell, what takes it is the machine as well."""
    (one,) = campaign("linearity", [Pair(baseline={}, arm={"work": 2.0})], blocks=12, plan=LONG, **place)
    (low, high), detail = LINEAR, ""
    value, ci = None, None
    if one["ci"]:
        value, ci = 1 / one["ratio"], (1 / one["ci"][1], 1 / one["ci"][0])
    found = outcome(value is not None and low <= value <= high, ci, low=low, high=high)
    if _counts_disturbed(one):
        found = "undecided"
    if found == "undecided":
        detail = CALMER
    name, goal = "time(2n) ÷ time(n)", f"{low:g} to {high:g}"
    return Row(name=name, n=one["blocks"], value=value, ci=ci, goal=goal, outcome=found, unit="ratio", detail=detail)


def _left(count: int) -> int:
    """How many of so many contrasts must be left to judge: no more than a fifth spoiled, as of a contrast's blocks."""
    return math.ceil((1 - SPOILED_SHARE) * count)


def _spreads(contrasts: Sequence[Contrast]) -> str:
    spreads = sorted(one["spread"] for one in contrasts if one["spread"] is not None)
    if not spreads:
        return "no spread"
    return f"paired SD {100 * spreads[len(spreads) // 2]:.2f} % at the median"


def _left_out(contrasts: Sequence[Contrast], measured: Sequence[Contrast]) -> str:
    repeated = sum(one["blocks_repeated"] for one in contrasts)
    left = len(contrasts) - len(measured)
    return f"{repeated} blocks repeated, {left} contrasts without a verdict"
