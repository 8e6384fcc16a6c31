"""Text as people read it: safe words, short names, numbers and lists of processors (pure)."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence

Writer = Callable[[float | None], str]
NOTHING = "—"


def clean(text: object) -> str:
    """One line without control characters: a worker's last words must not steer a terminal."""
    spaced = "".join(" " if character.isspace() else character for character in str(text))
    return " ".join("".join(c for c in spaced if unicodedata.category(c) not in {"Cc", "Cf", "Cs"}).split())


def short_names(ids: Iterable[str], least: int = 8) -> dict[str, str]:
    """Of each id as much of its beginning as tells it from the others, at least so much."""
    every = list(dict.fromkeys(map(str, ids)))
    longest = max(map(len, every), default=least)
    length = next((n for n in range(least, longest) if len({one[:n] for one in every}) == len(every)), longest)
    return {one: one[:length].rstrip("-") for one in every}


def number(value: float | None, digits: int = 3) -> str:
    """Significant digits without an exponent: 0.0123, 2.96, 21,600."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits}g}")  # 9.999 has one digit more once it is rounded
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{value:,.{decimals}f}"


def precise(value: float) -> str:
    """Four significant digits, with an exponent where they would drown in zeros: 0.01563, 2.1e-14."""
    return f"{value:.4g}"


def rate(value: float | None) -> str:
    """Items a second: 21.6k, 1.24M."""
    if value is None:
        return NOTHING
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * limit:
            return f"{number(value / limit)}{unit}"
    return number(value)


def interval(ci: Sequence[float] | None, write: Writer = number) -> str:
    """Both ends, or nothing."""
    return f"{write(ci[0])}–{write(ci[1])}" if ci else NOTHING


def ratio(value: float | None) -> str:
    """Three decimals near 1, three digits far from it."""
    if value is None:
        return NOTHING
    return f"{value:.3f}" if 0.1 <= value < 10 else number(value)


def seconds(value: float | None) -> str:
    """A duration of set-up."""
    return NOTHING if value is None else f"{number(value, 2)} s"


def mebibytes(value: float | None) -> str:
    """Memory."""
    return NOTHING if value is None else f"{number(value / 2**20)} MiB"


def quoted(text: str) -> str:
    """Text of unknown origin on one line, in double quotes, shortened to 60 characters."""
    return json.dumps(text if len(text) <= 60 else text[:59] + "…", ensure_ascii=False)


def named(cpus: Iterable[int]) -> str:
    """These CPUs in words: CPU 1, CPUs 0-3,8."""
    numbers = frozenset(cpus)
    return f"CPU{'s' if len(numbers) > 1 else ''} {listed(numbers)}"


def listed(cpus: Iterable[int]) -> str:
    """These CPUs as taskset and isolcpus take them: 0-3,8."""
    spans: list[list[int]] = []
    for cpu in sorted(cpus):
        if spans and spans[-1][1] == cpu - 1:
            spans[-1][1] = cpu
        else:
            spans.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
