"""Whose time a reading was taken in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bench import store
from bench.telemetry.attribution import Span, attributed, owners, spans

RECORD: dict[str, Any] = {
    "arms": {
        "tf": {
            "spans": {"start": [0, 40], "compile": [40, 50], "warm_up": [100, 140]},
            "soak": {"start_ns": 400, "end_ns": 500, "steps": 7},
        },
        "pt": {"spans": {"start": [50, 80], "compile": [80, 95], "warm_up": [140, 180]}, "soak": None},
    }
}
STEPS = pd.DataFrame(
    [("tf", 200, 210), ("tf", 200, 210), ("pt", 212, 230), ("tf", 231, 240)], columns=["arm", "start_ns", "end_ns"]
)


def test_every_moment_has_one_owner_or_is_a_gap() -> None:
    found = attributed(
        pd.DataFrame({"t_ns": [10, 45, 60, 90, 98, 120, 150, 205, 211, 212, 230, 235, 399, 450, 501]}),
        spans(RECORD, STEPS),
    )
    assert list(zip(found["owner"], found["span"], strict=True)) == [
        ("tf", "start"), ("tf", "compile"), ("pt", "start"), ("pt", "compile"), (None, "gap"), ("tf", "warm_up"),
        ("pt", "warm_up"), ("tf", "slice"), (None, "gap"), ("pt", "slice"), ("pt", "slice"), ("tf", "slice"),
        (None, "gap"), ("tf", "soak"), (None, "gap"),
    ]  # fmt: skip


def test_a_slice_of_many_rows_is_one_span_and_all_are_in_order() -> None:
    found = spans(RECORD, STEPS)
    assert found == sorted(found)
    assert [one for one in found if one.what == "slice"] == [
        Span(200, 210, "tf", "slice"), Span(212, 230, "pt", "slice"), Span(231, 240, "tf", "slice")
    ]  # fmt: skip


def test_a_block_of_an_earlier_version_has_slices_and_soaks_alone() -> None:
    old = {"arms": {arm: {"soak": one["soak"]} for arm, one in RECORD["arms"].items()}}
    assert {one.what for one in spans(store.block_of_today(old), STEPS)} == {"slice", "soak"}


def test_nothing_was_anybodys_where_nothing_was_done() -> None:
    assert owners(np.array([1, 2]), []).tolist() == [-1, -1]
    empty = pd.DataFrame({name: pd.Series(dtype="int64") for name in STEPS})
    assert spans(store.block_of_today({"arms": {"tf": {"status": "failed"}}}), empty) == []
