"""The verbs that ask whether a measurement can be believed: check, plan, compare, validate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.cli.options import LAUNCHERS, OUT, interruptible
from bench.errors import InputError, ProcessRefused, StorageFailed

if TYPE_CHECKING:
    from bench.api import Plan
    from bench.matrix.matrix import Matrix


@click.command()
@click.option("--strict", is_flag=True, help="Exit 1 if anything found fails.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of an arm.")
@click.option("--format", "kind", type=click.Choice(["table", "json"]), default="table", show_default=True)
def check(strict: bool, threads: int, kind: str) -> None:
    """What about this machine would spoil a measurement, and the cure of each."""
    from rich.console import Console

    from bench.machine.check import inspect as checks

    findings = checks.inspect(threads=threads)
    if kind == "json":
        click.echo(checks.as_json(findings))
    else:
        checks.print_table(findings, Console())
    if strict:
        checks.gate(findings)


@click.command()
@click.option(
    "--quick", "kind", flag_value="quick", default="quick", help="About 15 minutes, more on a noisy machine.  [default]"
)
@click.option("--full", "kind", flag_value="full", help="Hours: more of each test, and real frameworks in containers.")
@click.option("--only", multiple=True, metavar="PART", help="One part alone; may be repeated.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="DIR", help="Go on with a stopped validation.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path(OUT), show_default=True,
              metavar="DIR", help="Where the validation's folder is made.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--format", "shown", type=click.Choice(["table", "markdown", "json"]), default="table", show_default=True)
def validate(kind: str, only: tuple[str, ...], resume: Path | None, out: Path, seed: int, shown: str) -> None:
    """Hold the harness to its own standard; exit 1 if a test fails, 0 if the machine leaves one undecided."""
    import json

    from rich.console import Console

    from bench import storage
    from bench.validate import show, suite

    with storage.told(out, remedy="choose another --out"):
        folder = resume or suite.begin(full=kind == "full", out=out, only=only, seed=seed)
    with interruptible():
        try:
            with storage.told(folder):
                report = suite.carry_on(folder, lambda text: click.echo(text, err=True))
        except (KeyboardInterrupt, StorageFailed, ProcessRefused):
            click.echo(f"stopped; to go on: bench validate --resume {folder}", err=True)
            raise
    if shown == "json":
        click.echo(json.dumps(report.to_json(), indent=1, allow_nan=False))
    elif shown == "markdown":
        click.echo(show.markdown(report).rstrip("\n"))
    else:
        show.print_table(report, Console())
    click.echo(f"{report.told}; kept: {folder}", err=True)
    report.gate()


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--fail-above", metavar="PERCENT", help="Exit 1 where a slowdown of more is shown, such as 5%.")
@click.option("--format", "kind", type=click.Choice(["table", "markdown", "json"]), default="table", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path(OUT), show_default=True, metavar="DIR",
              help="Where BEFORE and AFTER lie, when they are ids.")  # fmt: skip
def compare(before: Path, after: Path, fail_above: str | None, kind: str, out: Path) -> None:
    """Two runs: what became slower or faster, with intervals, and what differs between them on record."""
    limit = None if fail_above is None else _share(fail_above)
    import json

    from rich.console import Console

    from bench import store
    from bench.errors import GateError
    from bench.history import compare as comparing
    from bench.report import compare_table

    runs = [store.read(store.find(given, out)) for given in (before, after)]
    document = comparing.compare(runs[0], runs[1], fail_above=limit)
    if kind == "json":
        click.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))
    elif kind == "markdown":
        click.echo(compare_table.markdown(document).rstrip("\n"))
    else:
        compare_table.render(document, Console())
    if document["failed"]:
        raise GateError(str(compare_table.outcome(document)))


@click.command()
@click.option(
    "--matrix", is_flag=False, flag_value="default", metavar="[NAME|FILE]", required=True,
    help="Built in (quick, default, workloads, classics, containers, gpu), or a YAML file; with no value: default.",
)  # fmt: skip
@click.option("--launcher", type=click.Choice(LAUNCHERS), help="As for bench run.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Instead of the matrix's device.")
@click.option("--budget", metavar="TIME", help="Stop after this much measuring: 90s, 10m, 1h.")
@click.option("--seed", type=click.IntRange(min=0), help="Instead of the matrix's seed.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path(OUT), show_default=True,
              metavar="DIR", help="Where earlier runs lie, and a pilot's is made.")  # fmt: skip
@click.option("--pilot", is_flag=True, help="Measure two blocks of every comparison first, and predict from them.")
@click.option("--format", "kind", type=click.Choice(["table", "json"]), default="table", show_default=True)
def plan(
    matrix: str,
    launcher: str | None,
    device: str | None,
    budget: str | None,
    seed: int | None,
    out: Path,
    pilot: bool,
    kind: str,
) -> None:
    """The comparisons of a matrix, their blocks in order, and how long they should take; starts nothing by itself."""
    import json

    from bench import api

    loaded = api.load(matrix, device=device, seed=seed, budget=budget)
    found = _piloted(loaded, launcher=launcher, out=out) if pilot else api.plan(loaded, out=out, launcher=launcher)
    if kind == "json":
        click.echo(json.dumps(found.document, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        found.show()


def _piloted(loaded: Matrix, *, launcher: str | None, out: Path) -> Plan:
    """Measure two blocks of every comparison as a run of its own, which is kept, and plan by that."""
    from dataclasses import replace

    from bench import api
    from bench.report.live import View

    small = replace(loaded, name=f"plan-{loaded.name}", budget=replace(loaded.budget, blocks=2))
    with interruptible(), View() as view:
        pilot = api.run(small, launcher=launcher, out=out, view=view)
    click.echo(f"pilot: {pilot.folder}, kept", err=True)
    return api.plan(loaded, out=out, launcher=str(pilot.stored.run["launcher"]), runs=[pilot.stored])


def _share(percent: str) -> float:
    """A percentage as a share. Raises InputError."""
    digits = percent.strip().removesuffix("%").strip()
    try:
        value = float(digits) if percent.strip().endswith("%") else float("nan")
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1000:  # NaN compares false
        raise InputError(f"--fail-above {percent}: not a percentage from 0% to 1000%; write 5%, for example")
    return value / 100
