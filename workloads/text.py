"""Text of a source whose entropy is known, and what the character models share.

Words of a small invented language are drawn independently by Zipf's law and parted by blanks. The text is endless, free
of rights, and the same on every machine; and no model can do better than the source's own entropy.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from workloads import evaluation
from workloads.runtime import Array

ALPHABET = " abcdefghijklmnopqrstuvwxyz"
INPUT = "characters"
TARGET = "next_characters"
WORDS = 200
TRAIN_CHARACTERS, TEST_CHARACTERS = 2**18, 2**15
TEST_WINDOWS = 256
_ZIPF_SHIFT = 2.7  # Mandelbrot's
_VOWELS, _CONSONANTS = "aeiou", "bcdfghjklmnprstvwz"


@cache
def words() -> tuple[str, ...]:
    """The lexicon, most frequent first: different words of one to three syllables, the same for every seed."""
    rng = np.random.default_rng(20_260)
    found: dict[str, None] = {}
    while len(found) < WORDS:
        syllables = (
            _CONSONANTS[rng.integers(len(_CONSONANTS))] + _VOWELS[rng.integers(len(_VOWELS))]
            for _ in range(int(rng.integers(1, 4)))
        )
        found["".join(syllables) + ("", "n", "s")[int(rng.integers(3))]] = None
    return tuple(found)


def frequencies() -> Array:
    """P(word) ∝ 1 / (rank + 2.7), (WORDS,).

    source  Mandelbrot 1953, "An informational theory of the statistical structure of language"
    """
    weights = 1 / (np.arange(1, WORDS + 1) + _ZIPF_SHIFT)
    return np.asarray(weights / weights.sum())


def entropy() -> float:
    """Nats a character: the entropy of a word over its mean length with its blank."""
    p = frequencies()
    lengths = np.array([len(word) + 1 for word in words()])
    return float(-(p * np.log(p)).sum() / (p * lengths).sum())


@cache
def characters(seed: int, stream: int, count: int) -> Array:
    """So many characters as places in the alphabet, int64."""
    rng = np.random.default_rng([seed, stream])
    # Every word has two characters and a blank at least.
    drawn = np.searchsorted(np.cumsum(frequencies()), rng.random(count // 3 + 1)).clip(max=WORDS - 1)
    text = " ".join([words()[word] for word in drawn])[:count]
    return np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64).clip(96) - 96


def batches(*, length: int, batch_size: int, count: int, seed: int, first: int = 0) -> dict[str, Array]:
    """Windows from random places, from batch `first` on: characters and those one place on; (count, batch, length)."""
    text = characters(seed, 2, TRAIN_CHARACTERS)
    starts = np.random.default_rng([seed, 3]).integers(0, len(text) - length, (first + count, batch_size))
    return _windows(text, starts[first:], length)


def test_windows(*, length: int, seed: int) -> dict[str, Array]:
    """Windows of another text of the same source, (TEST_WINDOWS, length)."""
    text = characters(seed, 5, TEST_CHARACTERS)
    return _windows(text, np.linspace(0, len(text) - length - 1, TEST_WINDOWS).astype(np.int64), length)


def _windows(text: Array, starts: Array, length: int) -> dict[str, Array]:
    places = starts[..., None] + np.arange(length)
    return {INPUT: text[places], TARGET: text[places + 1]}


def evaluated(logits: Array, *, length: int, seed: int) -> dict[str, float]:
    """Cross-entropy on the test windows, and the entropy of the source, which is the least that is possible."""
    labels = test_windows(length=length, seed=seed)[TARGET]
    return {
        "test_nats_per_character": evaluation.cross_entropy(logits, labels),
        "entropy_nats_per_character": entropy(),
        "test_accuracy": evaluation.accuracy(logits.argmax(axis=-1), labels),
    }
