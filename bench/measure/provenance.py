"""Where numbers come from: run.json's header, the key of every comparison, and the refusal of a changed one."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bench import __version__, paths, records
from bench.errors import InputError
from bench.machine import describe
from bench.measure import measuring
from bench.telemetry import nvml

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bench.launch import Launcher, Place, Provision
    from bench.matrix.comparison import Comparison
    from bench.matrix.matrix import Matrix
    from bench.provision.mnist import DataSet


def header(
    place: Place,
    matrix: Matrix,
    launcher: Launcher,
    provisions: Mapping[str, Provision],
    dataset: DataSet | None,
) -> dict[str, Any]:
    """run.json: everything that a number needs to have an origin."""
    machine = describe.describe(device=_device(matrix), docker_engine=launcher.engine_version)
    images = {name: provision.to_json() for name, provision in provisions.items()}
    shared = {
        "images": _images({"images": images}),
        "harness": measuring.digest(),
        "workloads": paths.staged_worker_root().name,
        "data": dataset.sha256 if dataset else None,
        "machine": records.machine_key(machine),
        "launcher": launcher.name,
        "seed": matrix.seed,
        "schedule": matrix.schedule,
    }
    return {
        "id": place.run_id,
        "bench": __version__,
        "started_at": now(),
        "finished_at": None,
        "launcher": launcher.name,
        "base": place.base,
        "commit": machine.get("commit"),
        "harness": shared["harness"],
        "workloads": shared["workloads"],
        "seed": matrix.seed,
        "schedule": matrix.schedule,
        "matrix": matrix.resolved() | {"budget": asdict(matrix.budget)},
        "environment": machine,
        "telemetry": {"source": nvml.source(), "hz": matrix.telemetry.hz},
        "images": images,
        "data": shared["data"],
        "comparisons": {one.id: _comparison(one, shared) for one in matrix.comparisons},
        "plans": {},
        "notes": list(dict.fromkeys([*matrix.notes, *(note for one in provisions.values() for note in one.notes)])),
    }


def _device(matrix: Matrix) -> str:
    """What the cells resolved to: `cuda` where any of them did."""
    return "cuda" if any(arm.cell.device == "cuda" for one in matrix.comparisons for arm in one.arms) else "cpu"


def _comparison(comparison: Comparison, shared: Mapping[str, Any]) -> dict[str, Any]:
    plain = {
        "compare": list(comparison.compare),
        "baseline": comparison.baseline,
        "arms": {arm.id: arm.cell.to_json() for arm in comparison.arms},
    }
    key = json.dumps({**plain, "shared": shared}, sort_keys=True).encode()
    return {"key": hashlib.sha256(key).hexdigest(), **plain}


def refuse_changes(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """A record is keyed by all that it depends on: another key is another measurement."""
    for name, entry in before["comparisons"].items():
        if now["comparisons"][name]["key"] != entry["key"]:
            was, is_now = _parts(before), _parts(now)
            changed = " and ".join(part for part in was if was[part] != is_now[part]) or "the comparison itself"
            raise InputError(
                f"{folder}: {name} cannot be resumed, because {changed} changed since it began; start a new run"
            )


def _parts(header: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into every key, as a sentence calls it."""
    return {
        **{part: header.get(part) for part in ("data", "launcher", "seed", "schedule")},
        "images": _images(header),
        "the harness's own code": header["harness"],
        "the workloads' code": header["workloads"],
        "the machine": records.machine_key(header["environment"]),
    }


def _images(header: Mapping[str, Any]) -> dict[str, Any]:
    return {name: without_notes(image) for name, image in header["images"].items()}


def without_notes(image: Mapping[str, Any]) -> dict[str, Any]:
    """Words decide nothing."""
    return {**image, "notes": None}


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def fresh_id() -> str:
    """The time of day and four digits of chance."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
