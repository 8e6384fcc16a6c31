"""`bench images`: build, list, save and load the frameworks' container images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.cli.options import say


class _Framework(click.ParamType[str]):
    """One that bench comes with; which there are is read when one is given."""

    name = "framework"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name itself."""
        from bench import frameworks

        if value not in frameworks.every():
            self.fail(f"{value!r} is not one of {', '.join(map(repr, frameworks.every()))}.", param, ctx)
        return value


FLAVOURS = click.Choice(["cpu", "cuda"])

the_frameworks = click.argument("frameworks", metavar="[FRAMEWORK]...", nargs=-1, type=_Framework())
the_bundle = click.option(
    "--ca-bundle", type=click.Path(path_type=Path), metavar="FILE",
    help="Certificates (PEM) to trust while downloading: a company's own authority.",
)  # fmt: skip
the_format = click.option(
    "--format", "kind", type=click.Choice(["table", "json"]), default="table", show_default=True
)  # fmt: skip


@click.group()
def images() -> None:
    """The frameworks' container images."""


@images.command("build")
@the_frameworks
@click.option("--flavour", type=FLAVOURS, default="cpu", show_default=True, help="cuda: gigabytes, for a GPU.")
@click.option("--version", metavar="RELEASE", help="Of the one FRAMEWORK, exactly.  [default: the locked one]")
@click.option("--base", metavar="IMAGE", help="Base of all images.  [default: an official slim Python image]")
@the_bundle
@the_format
def build(
    frameworks: tuple[str, ...], flavour: str, version: str | None, base: str | None, ca_bundle: Path | None, kind: str
) -> None:
    """Build the images that are missing or out of date: of what is compared by default, or of every FRAMEWORK named."""
    from bench import frameworks as known
    from bench.provision.image import Wanted, build_all
    from bench.provision.network import trusting

    _refuse_ambiguous(version, frameworks, "build")
    wanted = [Wanted(name, version, flavour) for name in dict.fromkeys(frameworks or known.defaults())]
    with trusting(ca_bundle):
        found = build_all(wanted=wanted, base=base, progress=say)
    _show(found, kind)


@images.command("list")
@the_format
def list_(kind: str) -> None:
    """Print every image of bench: framework, version, flavour, id, base, size."""
    from bench.provision.image import list_images

    _show(list_images(), kind)


@images.command("save")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@the_frameworks
@click.option("--flavour", type=FLAVOURS, default="cpu", show_default=True)
@click.option("--version", metavar="RELEASE", help="Of the one FRAMEWORK, exactly.  [default: the locked one]")
def save(file: Path, frameworks: tuple[str, ...], flavour: str, version: str | None) -> None:
    """Write images with their base into FILE, for a machine without a network."""
    from bench import frameworks as known
    from bench.provision import transport

    _refuse_ambiguous(version, frameworks, "save images.tar")
    wanted = frameworks or known.defaults()
    _show(transport.save(file, frameworks=wanted, flavour=flavour, version=version, progress=say), "table")


@images.command("load")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@the_format
def load(file: Path, kind: str) -> None:
    """Take the images out of a FILE that `bench images save` wrote."""
    from bench.provision import transport

    _show(transport.load(file, progress=say), kind)


def _refuse_ambiguous(version: str | None, frameworks: tuple[str, ...], verb: str) -> None:
    from bench import frameworks as known
    from bench.errors import InputError

    if version is not None and len(frameworks) != 1:
        example = f"bench images {verb} {known.defaults()[-1]} --version {version}"
        raise InputError(f"--version is of one framework; name it: {example}")


def _show(found: list[Any], kind: str) -> None:
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    if kind == "json":
        click.echo(json.dumps([asdict(image) for image in found], indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("framework", "version", "flavour", "id", "base", "size"):
        table.add_column(column, justify="right" if column == "size" else "left")
    for image in found:
        size = f"{image.size_bytes / 1e6:,.0f} MB"
        table.add_row(image.framework, image.version, image.flavour, image.id[:19], image.base[:19], size)
    Console().print(table)
