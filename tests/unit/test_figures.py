"""A figure is a row: what it says of itself is where the document, the CSV and the page have it."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import pytest

from bench.estimate import figures, frames
from bench.estimate.figures import FIGURES, Figure
from bench.report import export, markdown

if TYPE_CHECKING:
    from bench.store import StoredRun


@pytest.mark.parametrize("one", [one for one in FIGURES if one.column], ids=lambda one: ".".join(one.place))
def test_a_figure_is_the_median_of_its_column(one: Figure, stored: StoredRun, document: dict[str, Any]) -> None:
    trials = frames.read(stored).trials
    for cell in document["cells"]:
        value, ci = one.of(cell["metrics"])
        comparison, arm = cell["id"].split("/")
        own = trials[(trials["comparison"] == comparison) & (trials["arm"] == arm)]
        own = frames.counting(own, [arm])[one.column].dropna()
        if value is None:
            assert ".".join(one.place) in cell["nulls"]
        else:
            assert value == pytest.approx(one.kind(own.median()), rel=1e-12)
        assert (ci is None) or one.interval


def test_the_csv_has_every_figure_once_with_its_value(document: dict[str, Any]) -> None:
    lines = list(csv.DictReader(io.StringIO(export.csv_text(document))))
    cells = {cell["id"]: cell for cell in document["cells"]}
    names = [one.name for one in figures.IN_CSV]
    assert len(set(names)) == len(names)
    of_sides = {"step_ms", "items_per_s"}  # of the blocks that the ratio is of
    for line in lines:
        for one in figures.IN_CSV:
            value, _ = one.of(cells[line["cell"]]["metrics"])
            if one.name not in of_sides:
                assert line[one.name] == ("" if value is None else str(value)), one.name


def test_the_page_has_a_column_for_each_that_has_a_heading(document: dict[str, Any]) -> None:
    page = markdown.render(document)
    headings = [str(one.heading) for one in figures.ON_PAGE]
    assert f"| cell | {' | '.join(headings)} | blocks |" in page
    assert f"| cell | {' | '.join(str(one.start) for one in figures.STARTUP)} | cold build |" in page


def test_no_two_figures_share_a_place() -> None:
    places = [one.place for one in FIGURES]
    assert len(set(places)) == len(places)
