"""Contrasts of one run, judged as the smaller runs that they stand for."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_run import COMPARISONS, whole_run

from bench.estimate import summary
from bench.validate import usable


@pytest.mark.second
def test_a_group_is_judged_as_if_it_were_a_run_of_its_own(tmp_path: Path) -> None:
    stored = whole_run(tmp_path / "run")
    together = summary.summarise(stored)["contrasts"]
    alone = [one for (one,) in usable._in_groups(stored, 1)]
    assert [one["comparison"] for one in alone] == list(COMPARISONS)
    for one, other in zip(alone, together, strict=True):
        assert one["ratio"] == other["ratio"]
        assert one["p_holm"] == pytest.approx(one["p"])
    assert any(other["p_holm"] > 1.5 * one["p_holm"] for one, other in zip(alone, together, strict=True))
    (group,) = usable._in_groups(stored, len(COMPARISONS))
    assert group == together


def test_the_words_are_told_with_their_caveats() -> None:
    contrasts = [{"verdict": "slower", "caveats": [{}]}, {"verdict": "no_steady_state", "caveats": []}]
    assert usable._words(contrasts) == "1 slower, 1 no steady state; 1 with a caveat"
    assert usable._words([]).startswith("nothing was measured")
