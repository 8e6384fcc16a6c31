"""The marks and words of verdicts, caveats and images in a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.text import NOTHING

SYMBOLS = {
    "faster": "▲",
    "slower": "▼",
    "equivalent": "=",
    "small": "≈",
    "inconclusive": "?",
    "no_steady_state": "~",
    "degrading": "~",
    "unsupported": "·",
    "failed": "✗",
    "invalid": "✗",
}


def caveat_marks(caveats: Iterable[Mapping[str, Any]]) -> str:
    """The kinds of a verdict's caveats, marked: "! drift, disturbed"; empty where it has none."""
    kinds = ", ".join(dict.fromkeys(str(caveat["kind"]) for caveat in caveats))
    return f"! {kinds}" if kinds else ""


def spoken(verdict: str) -> str:
    """A verdict as words: "no steady state"."""
    return verdict.replace("_", " ")


def short_image(image: str | None) -> str:
    """The first 12 digits of an image's id."""
    return image.removeprefix("sha256:")[:12] if image else NOTHING
