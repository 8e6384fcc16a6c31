"""The devices that the cells of a matrix resolve to on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import InputError
from bench.machine import describe
from workloads.contract import STUB

if TYPE_CHECKING:
    from bench.matrix.matrix import Matrix


def resolved(matrix: Matrix) -> Matrix:
    """`auto` becomes what can be used here; a device that is absent is refused before anything starts."""
    asked = {arm.cell.device for one in matrix.comparisons for arm in one.arms}
    if asked == {"cpu"}:
        return matrix
    gpus = describe.cuda_devices()
    if "cuda" in asked and not gpus and describe.is_replayed():
        return _on_replay(matrix)
    if "cuda" in asked and not gpus:
        raise InputError("device cuda: no NVIDIA driver answers on this machine; choose --device cpu")
    return matrix.with_auto_device("cuda" if gpus else "cpu") if "auto" in asked else matrix


def _on_replay(matrix: Matrix) -> Matrix:
    """A stub runs beside a replayed GPU, its work on the processor; nothing else does, and `auto` is never that."""
    arms = [arm.cell for one in matrix.comparisons for arm in one.arms]
    if any(cell.framework.name != STUB for cell in arms if cell.device == "cuda"):
        raise InputError("device cuda: the GPU here is a replayed trace, which runs no framework; choose --device cpu")
    if "auto" in {cell.device for cell in arms}:
        raise InputError("device auto: the GPU here is a replayed trace, never chosen by itself; name cpu or cuda")
    return matrix
