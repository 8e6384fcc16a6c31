"""The command line: parse, call, exit code. Nothing heavier than click is imported before a verb is chosen."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import click

from bench import __version__
from bench.cli import images as cli_images
from bench.cli import telemetry, trust
from bench.cli.options import LAUNCHERS, OUT, interruptible, say, the_modes
from bench.errors import BenchError, InputError

INTERRUPTED = 130
# What `bench report` writes beside the table: the function that renders a document, as module:function.
RENDERERS = {
    "markdown": "bench.report.markdown:render",
    "csv": "bench.report.export:csv_text",
    "json": "bench.report.export:json_text",
}
FORMATS = ("table", *RENDERERS)


def main() -> None:
    """Run the command; every BenchError becomes one sentence and its exit code, here and nowhere else."""
    try:
        code = _code()
        sys.stdout.flush()  # or a full disk would be told when the interpreter ends, in its own words
    except OSError as error:
        from bench.storage import is_refusal, sentence

        if isinstance(error, BrokenPipeError) and _is_unread():
            sys.exit(_unread())
        if not is_refusal(error):
            raise
        _drop_output()
        click.echo(f"bench: {sentence(error)}", err=True)
        code = BenchError.exit_code
    sys.exit(code)


def _code() -> int:
    """The exit code of the command."""
    try:
        with _certificates():
            return int(cli.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BenchError as error:
        click.echo(f"bench: {error}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0


def _unread() -> int:
    """The exit code where who read along has gone, as `| head` does: nothing is said, and it is no gate that failed."""
    _drop_output()
    return BenchError.exit_code


def _is_unread() -> bool:
    """Whether it is the output that nobody reads any more."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    return False


def _drop_output() -> None:
    """What was not written goes nowhere, instead of failing once more when the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _certificates() -> contextlib.AbstractContextManager[None]:
    """Those of BENCH_CA_BUNDLE, for every verb; nothing is imported where it is not set."""
    if not os.environ.get("BENCH_CA_BUNDLE"):
        return contextlib.nullcontext()
    from bench.provision.network import trusting

    return trusting(None)


class Verbs(click.Group):
    """The verbs; click would exit with 1 where nobody reads on."""

    def invoke(self, ctx: click.Context) -> Any:
        """Call the verb."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            ctx.exit(_unread())


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="bench")
def cli() -> None:
    """Compare TensorFlow with PyTorch on identical workloads: proved, in lockstep, with intervals."""


@cli.command()
@click.option(
    "--matrix",
    is_flag=False,
    flag_value="default",
    metavar="[NAME|FILE]",
    help="Built in (quick, default, workloads, classics, containers, gpu), or a YAML file; with no value: default.",
)
@click.option("--launcher", type=click.Choice(LAUNCHERS), help="Where workers run.  [default: the matrix's]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Instead of the matrix's device.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path(OUT), show_default=True, metavar="DIR",
    help="Where the run's folder is made.",
)  # fmt: skip
@click.option("--budget", metavar="TIME", help="Stop after this much measuring: 90s, 10m, 1h.")
@click.option("--seed", type=click.IntRange(min=0), help="Instead of the matrix's seed.")
@click.option("--base", metavar="IMAGE", help="Base of all images (docker launcher).")
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with a stopped run.")
@click.option("--yes", is_flag=True, help="Allow a matrix of over 10,000 cells.")
@click.option("--recertify", is_flag=True, help="Prove anew what was proved for an earlier run on the same terms.")
@click.option("--strict", is_flag=True, help="Refuse, before anything is built, on a machine that fails bench check.")
def run(
    matrix: str | None,
    launcher: str | None,
    device: str | None,
    out: Path,
    budget: str | None,
    seed: int | None,
    base: str | None,
    resume: Path | None,
    yes: bool,
    recertify: bool,
    strict: bool,
) -> None:
    """Measure a matrix, keep every sample, print the comparison."""
    from bench import api, store
    from bench.matrix import matrix as matrices
    from bench.report.live import View

    fixed = {"--matrix": matrix, "--launcher": launcher, "--device": device, "--budget": budget, "--seed": seed}
    given = [
        name for name, value in {**fixed, "--base": base, "--recertify": recertify or None}.items() if value is not None
    ]
    if resume is not None and given:
        raise InputError(f"--resume goes on with a run as it was begun; leave out {', '.join(given)}")
    with interruptible(), View() as view:
        if resume is not None:
            begun = store.find(resume, out)
            if strict:
                _refuse_unfit(matrices.Matrix.from_resolved(store.read(begun).run["matrix"]))
            found = api.resume(begun, view=view)
        else:
            if matrix is None:
                known = ", ".join(matrices.built_in())
                raise InputError(f"nothing to run; give --matrix (built-in: {known}), or --resume RUN")
            loaded = api.load(matrix, device=device, seed=seed, budget=budget, yes=yes)
            if strict:
                _refuse_unfit(loaded)
            found = api.run(loaded, out=out, launcher=launcher, base=base, recertify=recertify, view=view)
    found.show()
    again = f"bench report {found.folder} --format {'|'.join(FORMATS)}"
    click.echo(f"\nrun: {found.folder}\nagain: {again}", err=True)
    sys.exit(found.exit_code)


@cli.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--format", "kind", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path(OUT), show_default=True, metavar="DIR",
    help="Where RUN lies, when it is an id.",
)  # fmt: skip
def report(run_folder: Path, kind: str, out: Path) -> None:
    """Tables from a run folder; needs no Docker, no framework, no GPU."""
    from importlib import import_module

    from bench import api

    found = api.read(run_folder, out=out)
    if kind == "table":
        found.show()
    else:
        module, _, name = RENDERERS[kind].partition(":")
        click.echo(getattr(import_module(module), name)(found.document).rstrip("\n"))


@cli.command()
@click.argument("workloads", metavar="[WORKLOAD]...", nargs=-1)
@click.option("--launcher", type=click.Choice(LAUNCHERS), default="auto", show_default=True)
@click.option("--workload", "more", multiple=True, metavar="'NAME: {PARAMETERS}'",
              help="One with parameters of its own, such as 'resnet: {depth: 20}'; may be repeated.")  # fmt: skip
@click.option("--phase", "phases", type=click.Choice(["train", "infer"]), multiple=True, help="[default: both]")
@click.option("--mode", "modes", metavar="MODE[,MODE]...", default="eager", show_default=True,
              help="Of eager, graph and compiled.")  # fmt: skip
@click.option("--format", "kind", type=click.Choice(["table", "checks", "json"]), default="table", show_default=True,
              help="One row an arm, or every check.")  # fmt: skip
def parity(
    workloads: tuple[str, ...], more: tuple[str, ...], launcher: str, phases: tuple[str, ...], modes: str, kind: str
) -> None:
    """Prove equivalence of the workloads, of all where none is named; print errors against the reference.

    At the defaults unless told otherwise; by gradient descent too where it may be chosen, and scikit-learn where it is.
    """
    from rich.console import Console

    from bench.measure import prove
    from bench.report.live import View

    asked = [prove.workload(text) for text in (*workloads, *more)]
    with interruptible(), View() as view:
        records = prove.prove(asked, phases=phases, modes=the_modes(modes), launcher=launcher, view=view)
    if kind == "json":
        click.echo(prove.as_json(records))
    else:
        (prove.print_table if kind == "table" else prove.print_checks)(records, Console())
    sys.exit(0 if prove.passed(records) else 3)


@cli.group()
def matrix() -> None:
    """What a matrix file may hold."""


@matrix.command("schema")
def matrix_schema() -> None:
    """Print the JSON Schema of a matrix file."""
    import json

    from bench.matrix.matrix import schema

    click.echo(json.dumps(schema(), indent=2))


cli.add_command(trust.check)
cli.add_command(trust.validate)
cli.add_command(trust.compare)
cli.add_command(trust.plan)
cli.add_command(telemetry.telemetry)
cli.add_command(telemetry.top)


cli.add_command(cli_images.images)


@cli.command()
@click.option("--images", is_flag=True, help="Also remove the images that bench built, and their bases.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def clean(images: bool, dry_run: bool) -> None:
    """Remove what killed runs and builds left: containers, build stages, compile caches."""
    from bench.launch import clean as cleaning

    found, unseen = cleaning.clean(images=images, dry_run=dry_run)
    for one in found:
        size = "" if one.size_bytes is None else f", {one.size_bytes / 1e6:,.0f} MB"
        done = "could not remove" if one.stays else "would remove" if dry_run else "removed"
        click.echo(f"{done} {one.kind} {one.name} ({one.why}{size}){f': {one.stays}' if one.stays else ''}")
    if not found:
        click.echo("nothing to clean")
    if unseen:
        click.echo(f"containers and images were not looked at: {unseen}", err=True)
    sys.exit(3 if any(one.stays for one in found) else 0)


@cli.group()
def data() -> None:
    """MNIST, by SHA-256."""


@data.command("fetch")
def data_fetch() -> None:
    """Have MNIST in the user's cache, from the first source that serves the right bytes."""
    from bench.provision import mnist as datasets

    found = datasets.fetch(say)
    click.echo(f"{found.folder} ({found.source})")


@data.command("verify")
def data_verify() -> None:
    """Check every file's SHA-256; exit 1 if one is missing or wrong."""
    from bench.provision import mnist as datasets

    statuses = datasets.verify()
    for status in statuses:
        click.echo(f"{status.name}: {status.fault or 'ok'}")
    datasets.gate(statuses)


def _refuse_unfit(loaded: Any) -> None:
    """Hold the machine to what this matrix asks of it. Raises GateError."""
    from bench.machine.check import inspect

    cells = [arm.cell for one in loaded.comparisons for arm in one.arms]
    threads, gpu = max(cell.threads for cell in cells), any(cell.device != "cpu" for cell in cells)
    inspect.gate(inspect.inspect(threads=threads, gpu=gpu))
