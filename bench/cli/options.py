"""What the verbs of the command line share: a run's folder, a duration, and a polite end."""

from __future__ import annotations

import contextlib
import math
import signal
from typing import TYPE_CHECKING, Any

import click

from bench.errors import InputError
from bench.matrix import launcher

if TYPE_CHECKING:
    from collections.abc import Iterator


OUT = "runs"
LAUNCHERS = (launcher.AUTO, *launcher.LAUNCHERS)


class Number(click.FloatRange):
    """A number of that range: `nan`, which is in none, is refused where click lets it through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. Raises click.BadParameter."""
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value} is no number", param, ctx)
        return found


def say(text: str) -> None:
    """A line of progress: on stderr, since data alone goes to stdout."""
    click.echo(text, err=True)


def the_modes(text: str) -> tuple[str, ...]:
    """Modes, as written with commas between them. Raises InputError."""
    from workloads.contract import MODES

    modes = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    for mode in modes:
        if mode not in MODES:
            raise InputError(f'--mode {text}: "{mode}" is unknown; choose of {", ".join(MODES)}')
    return modes


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """A polite kill is an interrupt too, in the background as well: what is finished is kept, what runs is removed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
