"""The launchers that a run asks for, with every environment or image made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import provenance
from bench.errors import EnvironmentUnavailable
from bench.launch.local import LocalLauncher
from bench.launch.together import Together

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.console import View
    from bench.launch import Launcher, Provider, Provision
    from bench.matrix import Matrix
    from workloads.contract import Cell, Named


def provide_all(
    launchers: Sequence[str], matrix: Matrix, place: provenance.Place, view: View
) -> tuple[Launcher, dict[str, Provision]]:
    """All that a matrix's workers are started in, by framework, and by launcher too where there are several.

    launchers  one, for every cell; or several, each for the cells that name it
    raises     EnvironmentUnavailable
    """
    if len(launchers) == 1:
        chosen, provisions = provide(launchers[0], _frameworks(matrix), place, view, gpu=_needs_gpu(matrix))
        return chosen, {str(framework): one for framework, one in provisions.items()}
    made: dict[str, Launcher] = {}
    found: dict[str, Provision] = {}
    try:
        for name in launchers:
            ours, gpu = _frameworks(matrix, name), _needs_gpu(matrix, name)
            made[name], provisions = provide(name, ours, place, view, gpu=gpu)
            found |= {provenance.of_launcher(str(framework), name): one for framework, one in provisions.items()}
    except BaseException:
        Together(made).close()
        raise
    return Together(made), found


def provide(
    name: str, frameworks: Sequence[Named], place: provenance.Place, view: View, *, gpu: bool = False
) -> tuple[Launcher, dict[Named, Provision]]:
    """One launcher, for these frameworks. Raises EnvironmentUnavailable, and InputError where it gives no `gpu`.

    `auto` is docker where an engine answers and the images can be had, else local, and says why.
    """
    if name in ("auto", "docker"):
        try:
            docker = _docker(place, gpu=gpu)
            return docker, _provided(docker, frameworks, view)
        except EnvironmentUnavailable as reason:
            if name == "docker":
                raise
            view.say(f"launcher: local, because {reason}")
    local = LocalLauncher(cache=place.cache)
    return local, _provided(local, frameworks, view)


def _docker(place: provenance.Place, *, gpu: bool) -> Provider:
    from bench.launch.docker import DockerLauncher

    return DockerLauncher(run_id=place.run_id, cache=place.cache, data=place.data, base=place.base, gpu=gpu)


def _provided(launcher: Provider, frameworks: Sequence[Named], view: View) -> dict[Named, Provision]:
    try:
        return launcher.provide(frameworks, view.say)
    except BaseException:
        launcher.close()
        raise


def _frameworks(matrix: Matrix, launcher: str | None = None) -> list[Named]:
    """Every framework, with its version and image, that the matrix compares, or that this launcher starts."""
    return sorted({cell.framework for cell in _cells(matrix, launcher)}, key=str)


def _needs_gpu(matrix: Matrix, launcher: str | None = None) -> bool:
    return any(cell.device == "cuda" for cell in _cells(matrix, launcher))


def _cells(matrix: Matrix, launcher: str | None) -> list[Cell]:
    cells = [arm.cell for one in matrix.comparisons for arm in one.arms]
    return [cell for cell in cells if launcher in (None, cell.launcher)]
