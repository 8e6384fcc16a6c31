"""Confounders: what differs between two arms beside the axes that are compared, for the line below a ratio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bench import frameworks
from bench.matrix import need
from bench.text import clean

if TYPE_CHECKING:
    from bench.store import StoredRun

Json = dict[str, Any]
# The oldest driver on Linux that runs a CUDA major version. Source: CUDA Toolkit release notes, "CUDA Toolkit and
# Minimum Required Driver Version for CUDA Minor Version Compatibility".
OLDEST_DRIVERS = {"11": "450.80.02", "12": "525.60.13", "13": "580"}
# Settings in effect that an axis sets: between cells that are compared on it they are no confounders.
_SET_BY = {
    "threads": {"intra_op_threads", "inter_op_threads"},
    "device": {"tf32", "build_cuda", "gpu_kernels"},
    "precision": {"tf32"},
    "launcher": {"uid"},
}


def confounders(run: StoredRun, compare: list[str], cells: tuple[Json, Json], outcomes: tuple[Json, Json]) -> list[str]:
    """Axes, settings in effect, libraries and images that are not the same on both sides, a sentence each.

    outcomes  of the last measured trial of either arm, empty where there is none
    """
    found = [
        *_axes(compare, *cells),
        *_settings(compare, cells, outcomes),
        *_libraries(*outcomes),
        *_images(run, *cells),
    ]
    return [clean(text) for text in found]


def _axes(compare: list[str], left: Json, right: Json) -> Iterator[str]:
    for axis, value in left.items():
        if axis not in {"framework", *compare} and value != right.get(axis):
            yield f"{axis}: {value} against {right[axis]}"


def _settings(compare: list[str], cells: tuple[Json, Json], outcomes: tuple[Json, Json]) -> Iterator[str]:
    left, right = (outcome.get("effective") or {} for outcome in outcomes)
    compared = {axis for axis in compare if cells[0].get(axis) != cells[1].get(axis)}
    for key, value in left.items():
        differs = key in right and value != right[key] and isinstance(value, str | int | float)
        if differs and not any(_follows(key, axis, cells, (value, right[key])) for axis in compared):
            yield f"effective {key}: {value} against {right[key]}"


def _follows(key: str, axis: str, cells: tuple[Json, Json], values: tuple[object, object]) -> bool:
    """Whether a setting is what this axis made it; of threads, only where as many are in effect as were asked for."""
    asked = tuple(cell.get("threads") for cell in cells)
    return key in _SET_BY.get(axis, ()) and (axis != "threads" or values == asked)


def _libraries(*outcomes: Json) -> Iterator[str]:
    left, right = (outcome.get("versions") or {} for outcome in outcomes)
    for key in left:
        if key in right and key not in frameworks.libraries() and left[key] != right[key]:
            yield f"{key}: {left[key]} against {right[key]}"
    drivers = [_oldest_driver(versions) for versions in (left, right)]
    if all(drivers) and drivers[0] != drivers[1]:
        yield f"oldest driver: {drivers[0]} against {drivers[1]}"


def _oldest_driver(versions: Mapping[str, str]) -> str | None:
    return OLDEST_DRIVERS.get(str(versions.get("cuda") or "").partition(".")[0])


def _images(run: StoredRun, *cells: Json) -> Iterator[str]:
    known = run.run.get("images") or {}
    images = [image for cell in cells if isinstance(image := need.image_of(known, cell), dict)]
    if len({str(image["base"]) for image in images if image.get("base")}) > 1:
        yield "images with different bases"
    if any(image.get("image") and not image.get("base") for image in images):
        yield "an image that bench did not build: what else it holds is its maker's choice"
