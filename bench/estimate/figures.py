"""Every figure of a cell, a row each: what it is taken from, where it stands, how a page writes it.

A new one that workers or samples give is a column of `frames.read` and a row here: the document, the CSV, the page and
`bench.Run.cells` follow. Soaks have their own rows: `soaks.FIGURES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench import text
from bench.records import SYNC

if TYPE_CHECKING:
    from bench.text import Writer


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure: the median over blocks of a column of `frames.Frames.trials`.

    name      in the CSV and in frames
    place     its way through the document's `metrics`
    column    None: it is of soaks
    interval  whether its interval stands beside it in the document; csv_interval: in the CSV too
    csv       whether it is in the CSV
    null      the kind of its reason where it is null: of samples, of steps timed one by one, or of what workers report
    kind      what its value is made of
    heading   in the page's table of cells, in which it is the `page`-th; write: how
    start     its name among what a fresh worker costs before its second step
    worker    whether it is read from a worker's outcome as it is; all others are worked out of samples
    """

    name: str
    place: tuple[str, ...]
    column: str | None
    interval: bool = False
    csv_interval: bool = False
    csv: bool = True
    null: str = "samples"
    kind: Callable[[float], float] = float
    heading: str | None = None
    page: int = 0
    write: Writer = text.number
    start: str | None = None
    worker: bool = False

    @property
    def kind_of(self) -> str:
        """Of steps, of starts, or of the rest: the order of the CSV."""
        return "start" if self.start else "rest" if self.null == "outcome" or self.column is None else "step"

    def of(self, metrics: Mapping[str, Any]) -> tuple[float | None, list[float] | None]:
        """Its median and interval in a document."""
        found: Any = metrics
        for step in self.place:
            found = found[step]
        return (found["median"], found["ci"]) if isinstance(found, Mapping) else (found, None)


_KINDS = ("step", "start", "rest")


def _both(name: str, **more: Any) -> Figure:
    return Figure(name=name, place=(name,), column=name, interval=True, csv_interval=True, **more)


def _start(name: str, start: str) -> Figure:
    return Figure(name=name, place=("startup", name), column=name, interval=True, start=start, worker=True)


def _reported(name: str, *, worker: bool = True, **more: Any) -> Figure:
    return Figure(name=name, place=(name,), column=name, null="outcome", worker=worker, **more)


def _soaked(name: str) -> Figure:
    return Figure(name=name, place=(name,), column=None)


FIGURES = (
    _both("step_ms", heading="ms a step", page=1),
    _both("cpu_ms", heading="CPU ms", page=4),
    _both("items_per_s"),
    # What a fresh worker costs before its second step. start: the process or container, and its Python.
    _start("start_s", "start"),
    _start("import_s", "import"),
    _start("data_s", "data"),
    _start("build_s", "build"),
    _start("first_step_s", "first step"),
    # Of steps timed one by one.
    Figure(name="step_ms_p90", place=("step_ms", "p90"), column="p90", null="steps", heading="p90 ms", page=2),
    Figure(name="step_ms_p99", place=("step_ms", "p99"), column="p99", null="steps", heading="p99 ms", page=3),
    *(
        Figure(name=f"{sync}_step_ms", place=("by_sync", sync), column=f"{sync}_step_ms", interval=True, csv=False)
        for sync in SYNC.values()
    ),
    *(_reported(name, csv=False) for name in ("import_s", "build_s", "first_step_s")),
    _reported("peak_memory_bytes", kind=round, heading="peak memory", page=6, write=text.mebibytes),
    _reported("cpu_percent", worker=False, heading="CPU %", page=5),
    _soaked("gpu_util_percent"),
    _soaked("joules_per_item"),
)
IN_CSV = tuple(sorted((one for one in FIGURES if one.csv), key=lambda one: _KINDS.index(one.kind_of)))
ON_PAGE = tuple(sorted((one for one in FIGURES if one.heading), key=lambda one: one.page))
STARTUP = tuple(one for one in FIGURES if one.start)
REPORTED = tuple(dict.fromkeys(one.column for one in FIGURES if one.worker and one.column))
OF_SOAKS = tuple(one for one in FIGURES if one.column is None)
