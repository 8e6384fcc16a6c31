"""The verbs of what is read beside a measurement: telemetry show, chart and record; top."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import click

from bench.cli.options import OUT, Number, interruptible, say
from bench.errors import InputError

_OUT = click.option(
    "--out", type=click.Path(path_type=Path), default=Path(OUT), show_default=True, metavar="DIR",
    help="Where RUN lies, when it is an id.",
)  # fmt: skip
_COMPARISON = click.option("--comparison", metavar="ID", help="Of which a block is drawn.  [default: the first]")
_BLOCK = click.option(
    "--block", type=click.IntRange(min=1), metavar="N", help="Which one, from 1.  [default: the last]"
)


@click.group()
def telemetry() -> None:
    """GPU, energy, CPU and memory beside a measurement: see docs/telemetry.md."""


@telemetry.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@_COMPARISON
@_BLOCK
@click.option("--format", "kind", type=click.Choice(["table", "json"]), default="table", show_default=True)
@_OUT
def show(run_folder: Path, comparison: str | None, block: int | None, kind: str, out: Path) -> None:
    """What was read in a run: soaks, the timeline of a block, how often fields move, and why what is null is."""
    from rich.console import Console

    from bench import store
    from bench.report import telemetry as telemetry_show

    run = store.read(store.find(run_folder, out))
    if kind == "json":
        click.echo(json.dumps(telemetry_show.document(run), indent=1, allow_nan=False))
        return
    record = telemetry_show.chosen(run, comparison=comparison, block=_place(block))
    telemetry_show.print_all(run, Console(), record=record)


@telemetry.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@_COMPARISON
@_BLOCK
@click.option(
    "--to", type=click.Path(path_type=Path), metavar="FILE",
    help="An .svg, .png or .json (Vega-Lite) file.  [default: charts/<comparison>.svg in the run's folder, each]",
)  # fmt: skip
@_OUT
def chart(run_folder: Path, comparison: str | None, block: int | None, to: Path | None, out: Path) -> None:
    """Draw a block of every comparison, or of one: utilization, memory, power and clocks, arms shaded."""
    from bench import store
    from bench.report import chart as charts

    run = store.read(store.find(run_folder, out))
    every = not (comparison or to)
    drawn = 0
    for name in list(run.run["comparisons"]) if every else [comparison]:
        try:
            record = charts.choose(run, comparison=name, block=_place(block))
        except InputError as reason:
            if not every:
                raise
            say(f"left out: {reason}")
            continue
        path = to or run.folder / "charts" / f"{record['comparison']}.svg"
        charts.write(charts.block_chart(run, record), path)
        click.echo(path)
        drawn += 1
    if not drawn:
        raise InputError(f"{run.folder}: no block has readings in telemetry/; nothing to draw")


@telemetry.command()
@click.option("--to", type=click.Path(path_type=Path), metavar="FILE", required=True, help="A CSV file, written anew.")
@click.option("--hz", type=Number(min=0.01, max=100), default=10.0, show_default=True)
@click.option("--seconds", type=Number(min=0, min_open=True), help="Then stop.  [default: until Ctrl-C]")
def record(to: Path, hz: float, seconds: float | None) -> None:
    """Record this machine's GPUs as a trace, which may be replayed in tests; exit 2 where there is none."""
    from bench.telemetry import trace

    with interruptible():
        count = trace.record(to, hz=hz, seconds=seconds, say=say)
    click.echo(f"{to}: {count:,} readings")


@click.command()
@click.argument("run_folder", metavar="[RUN]", type=click.Path(path_type=Path), required=False)
@click.option("--every", type=Number(min=0.5), default=1.0, show_default=True, help="Seconds between looks.")
@click.option("--once", is_flag=True, help="Look once.")
@click.option("--format", "kind", type=click.Choice(["table", "json"]), default="table", show_default=True,
              help="json looks once.")  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path(OUT), show_default=True, metavar="DIR",
    help="Where runs lie; without RUN the one that goes on is shown.",
)  # fmt: skip
def top(run_folder: Path | None, every: float, once: bool, kind: str, out: Path) -> None:
    """What the arms of a run do now: CPU, memory, GPU; read along from what its sampler writes anyway."""
    from rich.console import Console

    from bench import store
    from bench.report import top as looking

    folder = looking.find(store.find(run_folder, out) if run_folder else None, out)
    with interruptible(), _elsewhere(folder):
        if kind == "json":
            click.echo(json.dumps(looking.look(folder), indent=1, allow_nan=False))
        elif once:
            Console().print(looking.render(looking.look(folder)))
        else:
            looking.watch(folder, Console(), every_s=every)


def _place(block: int | None) -> int | None:
    """People count from 1, and blocks from 0."""
    return None if block is None else block - 1


@contextlib.contextmanager
def _elsewhere(folder: Path) -> Iterator[None]:
    """Keep this process beside the run's harness meanwhile, else off its arms' processors, where it may be there."""
    from bench import store
    from bench.machine import cpus

    placed = store.read_run(folder)["cpus"] or {"arms": {}, "control": []}
    usable, arms = frozenset(os.sched_getaffinity(0)), {cpu for own in placed["arms"].values() for cpu in own}
    with cpus.confined(usable.intersection(placed["control"]) or usable - arms or usable):
        yield
