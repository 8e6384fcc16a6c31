"""The launchers that a run asks for, with every environment or image made."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from bench.errors import EnvironmentUnavailable, InputError
from bench.launch import gpu
from bench.launch.together import Together
from bench.matrix.launcher import AUTO, LAUNCHERS, TRIED
from bench.matrix.need import Need, of_launcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.launch import Launcher, Place, Progress, Provider, Provision
    from bench.matrix.matrix import Matrix


def provide_all(
    launchers: Sequence[str], matrix: Matrix, place: Place, progress: Progress
) -> tuple[Launcher, dict[str, Provision]]:
    """All that a matrix's workers are started in, by need, and by launcher too where there are several.

    launchers  one, for every cell; or several, each for the cells that name it
    raises     EnvironmentUnavailable: one of them cannot be had, or a `cuda` cell's worker would see no GPU
    """
    if len(launchers) == 1:
        chosen, provisions = provide(launchers[0], _needs(matrix), place, progress)
        return chosen, {str(need): one for need, one in provisions.items()}
    made: dict[str, Launcher] = {}
    found: dict[str, Provision] = {}
    try:
        for name in launchers:
            made[name], provisions = provide(name, _needs(matrix, name), place, progress)
            found |= {of_launcher(str(need), name): one for need, one in provisions.items()}
    except BaseException:
        Together(made).close()
        raise
    return Together(made), found


def provide(
    name: str, needs: Sequence[Need], place: Place, progress: Progress
) -> tuple[Launcher, dict[Need, Provision]]:
    """One launcher, with what these needs take. Raises EnvironmentUnavailable; InputError: there is none of that name.

    `auto` is docker where an engine answers and the images can be had, else local, and says why.
    """
    *others, last = TRIED if name == AUTO else (name,)
    for other in others:
        try:
            return _made(other, needs, place, progress)
        except EnvironmentUnavailable as reason:
            progress(f"launcher: {last}, because {reason}")
    return _made(last, needs, place, progress)


def _made(name: str, needs: Sequence[Need], place: Place, progress: Progress) -> tuple[Launcher, dict[Need, Provision]]:
    if name not in LAUNCHERS:
        raise InputError(f'launcher "{name}" is unknown; choose {", ".join((AUTO, *LAUNCHERS))}')
    module, _, kind = LAUNCHERS[name].partition(":")
    launcher: Provider = getattr(importlib.import_module(module), kind).at(place, gpu=_any_cuda(needs))
    return launcher, _provided(launcher, needs, progress)


def _provided(launcher: Provider, needs: Sequence[Need], progress: Progress) -> dict[Need, Provision]:
    try:
        if _any_cuda(needs):
            gpu.look(launcher, progress)  # before gigabytes of images are made
        return launcher.provide(needs, progress)
    except BaseException:
        launcher.close()
        raise


def _needs(matrix: Matrix, launcher: str | None = None) -> list[Need]:
    """What the matrix's cells need, or those that this launcher starts."""
    cells = [arm.cell for one in matrix.comparisons for arm in one.arms]
    return sorted({Need.of(cell) for cell in cells if launcher in (None, cell.launcher)}, key=str)


def _any_cuda(needs: Sequence[Need]) -> bool:
    return any(need.flavour == "cuda" for need in needs)
