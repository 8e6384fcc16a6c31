"""The verbs that ask whether a measurement can be believed: check, plan, compare, validate."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli_support import OUT, interruptible


@click.command()
@click.option("--strict", is_flag=True, help="Exit 1 if anything found fails.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of an arm.")
@click.option("--format", "kind", type=click.Choice(["table", "json"]), default="table", show_default=True)
def check(strict: bool, threads: int, kind: str) -> None:
    """What about this machine would spoil a measurement, and the cure of each."""
    from rich.console import Console

    from bench import check as checks

    findings = checks.inspect(threads=threads)
    if kind == "json":
        click.echo(checks.as_json(findings))
    else:
        checks.print_table(findings, Console())
    if strict:
        checks.gate(findings)


@click.command()
@click.option("--quick", "kind", flag_value="quick", default="quick", help="Under 15 minutes.  [default]")
@click.option("--full", "kind", flag_value="full", help="Hours: more of each test, and real frameworks in containers.")
@click.option("--only", multiple=True, metavar="PART", help="One part alone; may be repeated.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="DIR", help="Go on with a stopped validation.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path(OUT), show_default=True,
              metavar="DIR", help="Where the validation's folder is made.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--format", "shown", type=click.Choice(["table", "markdown", "json"]), default="table", show_default=True)
def validate(kind: str, only: tuple[str, ...], resume: Path | None, out: Path, seed: int, shown: str) -> None:
    """Hold the harness to its own standard; exit 1 if a test fails."""
    import json

    from rich.console import Console

    from bench.validate import show, suite

    folder = resume or suite.begin(full=kind == "full", out=out, only=only, seed=seed)
    with interruptible():
        try:
            report = suite.carry_on(folder, lambda text: click.echo(text, err=True))
        except KeyboardInterrupt:
            click.echo(f"stopped; to go on: bench validate --resume {folder}", err=True)
            raise
    if shown == "json":
        click.echo(json.dumps(report.to_json(), indent=1, allow_nan=False))
    elif shown == "markdown":
        click.echo(show.markdown(report).rstrip("\n"))
    else:
        show.print_table(report, Console())
    click.echo(f"kept: {folder}", err=True)
    report.gate()
