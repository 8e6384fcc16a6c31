"""What a program or a notebook calls: `bench.run`, `bench.read`, `bench.plan`. The command line calls the same.

docs/api.md shows each at work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import store
from bench.errors import InputError
from bench.matrix import matrix as matrices
from bench.matrix.matrix import Matrix

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from bench.measure.view import View
    from bench.store import StoredRun

Given = str | Path | Mapping[str, Any] | Matrix
OUT = Path("runs")


@dataclass(frozen=True)
class Run:
    """A run, read from its folder; every frame is made when it is first asked for."""

    stored: StoredRun

    @property
    def folder(self) -> Path:
        """Where everything of it lies."""
        return self.stored.folder

    @cached_property
    def document(self) -> dict[str, Any]:
        """All of the report, as `bench report --format json` prints it."""
        from bench.estimate import summary

        return summary.summarise(self.stored)

    @cached_property
    def contrasts(self) -> pd.DataFrame:
        """One row a contrast: the arms, ratio of times (baseline ÷ arm) with its 95 % interval, verdict and reason."""
        return _frame(_contrast(one, self._cells) for one in self.document["contrasts"])

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row an arm of a comparison: where it lies in the matrix, step time in ms, items a second, memory."""
        return _frame(map(_cell, self.document["cells"]))

    @cached_property
    def blocks(self) -> pd.DataFrame:
        """One row a trial, which is an arm in a block: its times in ms and what its start cost in s."""
        from bench.estimate import frames

        return frames.read(self.stored).trials

    @cached_property
    def steps(self) -> pd.DataFrame:
        """One row a raw sample, in ns; `settling` ones are in no estimate."""
        import pandas as pd

        keys = ("comparison", "block", "attempt")
        parts = [self.stored.steps(one).assign(**{key: one[key] for key in keys}) for one in self.stored.blocks]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*keys, *store.STEP_COLUMNS])

    @property
    def exit_code(self) -> int:
        """As the command line's: 0, or 3 where a contrast is invalid or failed, or a block of it did."""
        from bench.estimate import summary

        return summary.exit_code(self.document)

    def show(self, console: Console | None = None) -> None:
        """Print the table."""
        from rich.console import Console

        from bench.report import table

        table.render(self.document, console or Console())

    def _repr_html_(self) -> str:
        """What a notebook shows: the contrasts."""
        shown = self.contrasts.drop(columns=["comparison", "reason"], errors="ignore")
        return str(shown.to_html(index=False, float_format="{:.3f}".format, na_rep="—"))

    @cached_property
    def _cells(self) -> dict[str, Mapping[str, Any]]:
        return {one["id"]: one for one in self.document["cells"]}


@dataclass(frozen=True)
class Plan:
    """What a matrix would measure, and how long that should take."""

    document: dict[str, Any]

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """One row a comparison: its arms, blocks and seconds, which are None where no earlier run tells."""
        rows = (one | {"arms": [arm["id"] for arm in one["arms"]]} for one in self.document["comparisons"])
        return _frame(rows)

    @property
    def seconds(self) -> float | None:
        """All in all; None where no earlier run tells."""
        found: float | None = self.document["seconds"]
        return found

    def show(self, console: Console | None = None) -> None:
        """Print it."""
        from rich.console import Console

        from bench.report import plan_table

        plan_table.render(self.document, console or Console())


def load(
    matrix: Given, *, device: str | None = None, seed: int | None = None, budget: str | None = None, yes: bool = False
) -> Matrix:
    """A matrix: built in, of a file, as a mapping that is written like a file, or loaded already.

    budget  stop after this much measuring: "90s", "10m", "1h"
    yes     allow more than 10,000 cells
    raises  InputError: the first thing wrong, one sentence
    """
    loaded = matrix if isinstance(matrix, Matrix) else matrices.load(_text(matrix), yes=yes)
    return loaded.with_options(device=device, seed=seed, budget_total_s=_seconds(budget))


def run(
    matrix: Given, *, out: str | Path = OUT, launcher: str | None = None, device: str | None = None,
    budget: str | None = None, seed: int | None = None, base: str | None = None, yes: bool = False,
    recertify: bool = False, view: View | None = None,
) -> Run:  # fmt: skip
    """Measure a matrix, and keep every sample in a folder inside `out`.

    launcher   instead of the matrix's; likewise device, budget ("90s", "10m", "1h") and seed
    base       the image that frameworks' images stand on, by name or id; None: an official slim Python image
    yes        allow more than 10,000 cells
    recertify  prove anew what was proved for an earlier run on the same terms
    view       who is told what happens; None: a live table on stderr
    raises     InputError and others of `bench.errors`, one sentence each; what is finished is kept
    """
    from bench.measure import run as runs
    from bench.report.live import View as Live

    loaded = load(matrix, device=device, seed=seed, budget=budget, yes=yes)
    with Live() as live:
        folder = runs.new(
            loaded, launchers=launchers_of(loaded, launcher), out=Path(out), base=base, view=view or live,
            recertify=recertify,
        )  # fmt: skip
    return read(folder)


def resume(folder: str | Path, *, out: str | Path = OUT, view: View | None = None) -> Run:
    """Go on with a stopped run, by its folder or its id in `out`."""
    from bench.measure import run as runs
    from bench.report.live import View as Live

    with Live() as live:
        return read(runs.resume(store.find(Path(folder), Path(out)), view=view or live))


def read(folder: str | Path, *, out: str | Path = OUT) -> Run:
    """A run, by its folder or its id in `out`. Raises InputError: there is none."""
    return Run(store.read(store.find(Path(folder), Path(out))))


def plan(
    matrix: Given, *, out: str | Path = OUT, launcher: str | None = None, device: str | None = None,
    budget: str | None = None, seed: int | None = None, yes: bool = False, runs: Sequence[StoredRun] | None = None,
) -> Plan:  # fmt: skip
    """The comparisons of a matrix, their blocks in order, and how long they should take; starts nothing.

    out   where earlier runs of this machine lie, which say how long
    yes   allow more than 10,000 cells
    runs  those that say so instead
    """
    from bench.history import forecast
    from bench.launch import joined
    from bench.measure import devices

    loaded = devices.resolved(load(matrix, device=device, seed=seed, budget=budget, yes=yes))
    earlier, unread = earlier_runs(Path(out)) if runs is None else (runs, [])
    found = forecast.document(loaded, earlier, launcher=joined(launchers_of(loaded, launcher)))
    return Plan({**found, "notes": [*found["notes"], *unread]})


def launchers_of(loaded: Matrix, launcher: str | None = None) -> tuple[str, ...]:
    """The launcher that is given, or those that the matrix names. Raises InputError: `auto` beside another."""
    asked = (launcher,) if launcher else loaded.launchers
    if len(asked) > 1 and "auto" in asked:
        raise InputError(
            f"{loaded.source}: launcher auto is docker or local, whichever serves, and cannot stand beside another; "
            "write launcher: [local, docker], or give --launcher"
        )
    return asked


def earlier_runs(out: Path) -> tuple[Sequence[StoredRun], list[str]]:
    """The runs of this machine in `out`, the newest first, and one line for each that cannot be read."""
    from bench import records
    from bench.machine import describe

    here = records.machine_key(describe.describe(device="cpu"))
    found, unread = [], []
    for header in sorted(out.glob("*/run.json")):
        try:
            one = store.read(header.parent)
            same = records.machine_key(one.run["environment"]) == here
        except (InputError, KeyError, TypeError) as error:
            unread.append(f"not used: {header.parent.name}, which cannot be read ({error})")
            continue
        if same:
            found.append(one)
    return sorted(found, key=lambda one: str(one.run["started_at"]), reverse=True), unread


def _text(matrix: str | Path | Mapping[str, Any]) -> str | Mapping[str, Any]:
    return matrix if isinstance(matrix, Mapping) else str(matrix)


def _seconds(budget: str | None) -> float | None:
    if budget is None:
        return None
    try:
        return matrices.seconds(budget)
    except ValueError as error:
        raise InputError(f"--budget {budget}: {error}") from None


def _contrast(one: Mapping[str, Any], cells: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    arm, baseline = cells[one["arm"]], cells[one["baseline"]]
    axes = {axis: value for axis, value in arm["cell"].items() if axis not in ("workload", "framework")}
    low, high = one["ci"] or (None, None)
    return {
        "comparison": one["comparison"],
        **_named("workload", arm["cell"]["workload"]),
        **axes,
        "baseline": baseline["label"],
        "arm": arm["label"],
        "ratio": one["ratio"],
        "low": low,
        "high": high,
        "verdict": one["verdict"],
        "caveats": ", ".join(dict.fromkeys(caveat["kind"] for caveat in one["caveats"])),
        "blocks": one["blocks"],
        "p_holm": one["p_holm"],
        "parity": one["parity"]["status"],
        "reason": one["reason"],
    }


def _cell(one: Mapping[str, Any]) -> dict[str, Any]:
    from bench.estimate.figures import IN_CSV

    cell = one["cell"]
    row = {
        "comparison": one["comparison"],
        **_named("workload", cell["workload"]),
        **_named("framework", cell["framework"]),
        "versions": ", ".join(f"{name} {version}" for name, version in (one["versions"] or {}).items()),
        "image": one["image"],
        "label": one["label"],
        **{axis: value for axis, value in cell.items() if axis not in ("workload", "framework")},
    }
    for figure in IN_CSV:
        row[figure.name], ci = figure.of(one["metrics"])
        if figure.csv_interval:
            row[f"{figure.name}_low"], row[f"{figure.name}_high"] = ci or (None, None)
    return {**row, "blocks": one["blocks"], "failed": one["failed"]}


def _named(axis: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """A workload or framework: its name, and what it was given, as columns `workload.n` and the like."""
    return {axis: value["name"]} | {f"{axis}.{key}": one for key, one in value.items() if key != "name"}


def _frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows))
