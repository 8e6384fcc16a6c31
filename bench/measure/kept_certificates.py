"""Certificates that are kept between runs, in the cache: what was proved is not proved again on the same terms.

The name of a certificate is a hash of all that its proof depends on: the code that computes and judges, what the two
sides run in, their cells, the seed, the data and the processor. Where any of it has changed there is no such name.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import paths, records
from bench.matrix import need
from bench.measure import provenance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.matrix.comparison import Arm, Comparison

SCHEMA = "bench.certificate/1"
Record = dict[str, Any]


def of(header: Mapping[str, Any], comparison: Comparison) -> dict[str, Record]:
    """The kept record of every contrast, by its arm; of none where one has to be proved anew.

    header  of the run that asks, as in run.json
    """
    found = {arm.id: _read(_path(header, baseline, arm)) for baseline, arm in comparison.contrasts}
    known = {name: record for name, record in found.items() if record}
    return known if len(known) == len(found) else {}


def keep(header: Mapping[str, Any], comparison: Comparison, arm: Arm, record: Mapping[str, Any]) -> None:
    """A certificate that passed, unless an evaluation failed; a cache that cannot be written keeps nothing.

    One that was kept already is kept again where its evaluations have become longer.
    """
    evaluations = record["evaluations"].values()
    if record["status"] != "passed" or any("failed" in evaluation for evaluation in evaluations):
        return
    path = _path(header, comparison.baseline_arm, arm)
    if record["kept"]:
        before = _read(path)
        if before is None or _length(record) <= _length(before):
            return
    partial = path.with_suffix(f".{os.getpid()}.part")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"schema": SCHEMA, **record}, allow_nan=False))
        partial.replace(path)


def _length(record: Mapping[str, Any]) -> float:
    """Steps of the shortest evaluation that was cut; infinite where none was."""
    return min((one["steps"] for one in record["evaluations"].values() if "cut_from" in one), default=math.inf)


def _read(path: Path) -> Record | None:
    """What is kept there; None of nothing, and of what is no whole certificate of this schema that passed."""
    try:
        record = json.loads(path.read_text())
        return record if (record["schema"], record["status"]) == (SCHEMA, "passed") else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _path(header: Mapping[str, Any], baseline: Arm, arm: Arm) -> Path:
    terms = {
        "arms": [baseline.id, arm.id],
        "code": [header["harness"], header["workloads"]],
        "reference": [np.__version__, sys.version, _blas()],
        "host": _host(),
        "cells": [one.cell.to_json() for one in (baseline, arm)],
        "images": [provenance.without_notes(_image(header, one)) for one in (baseline, arm)],
        "seed": header["seed"],
        "data": header["data"],
        "machine": records.machine_key(header["environment"]),
        "processor": header["environment"]["cpu"].get("flags"),
        "drivers": sorted(str(gpu.get("driver")) for gpu in header["environment"]["gpus"]),
    }
    name = hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()
    return paths.cache_root() / "certificates" / f"{name}.json"


def _blas() -> Any:
    """What NumPy multiplies by, as it was built."""
    return np.show_config(mode="dicts")["Build Dependencies"]["blas"]


def _host() -> dict[str, Any]:
    """What a worker on the host takes from it beside its environment: libraries put before it, and the compiler."""
    found: dict[str, Any] = {name: os.environ.get(name) for name in ("LD_LIBRARY_PATH", "LD_PRELOAD", "CXX")}
    compilers = (shutil.which(name) for name in (found["CXX"] or "c++", "c++", "g++", "clang++"))
    compiler = next((Path(path).resolve() for path in compilers if path), None)
    size_and_time = compiler and (compiler.stat().st_size, compiler.stat().st_mtime_ns)
    return found | {"compiler": compiler and [str(compiler), *(size_and_time or ())]}


def _image(header: Mapping[str, Any], arm: Arm) -> Mapping[str, Any]:
    found: Mapping[str, Any] = need.image_of(header["images"], arm.cell.to_json()) or {}
    return found
