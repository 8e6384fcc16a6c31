"""Which of bench's own modules measure: their code is a part of what every number depends on.

They start, drive, time, judge, repeat or end the work of the arms, or read the machine meanwhile. All others prepare
(what they prepare is held by its own hash or stands in run.json), keep, or tell: see `OTHERS`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent

# A package stands for all of its modules.
MODULES = (
    "certification",
    "child",
    "comparison",
    "cpus",
    "environment",
    "gates",
    "kept_certificates",
    "launch",
    "lockstep",
    "measuring",
    "parity",
    "peak",
    "pilot",
    "plan",
    "prologue",
    "run",
    "schedule",
    "standing",
    "stats",
    "stretch",
    "telemetry",
    "traces",
    "tracing",
    "warmup",
)
# Beside those that measure, or imported by them, and no part of the measurement: why not.
OTHERS = {
    "telemetry.attribution": "tells of what was kept",
    "telemetry.windows": "tells of what was kept",
    "telemetry.trace": "records a machine, not a run",
    "engine_errors": "words",
    "errors": "words",
    "origin": "names the commit",
    "outlook": "tells whether the time will do",
    "provenance": "makes the key",
    "paths": "where things lie",
    "storage": "words",
    "store": "keeps what was measured",
    "report": "is worked out again from what was kept",
    "matrix": "its result is in the key: the cells, the seed, the schedule",
    "matrix_cells": "like matrix",
    "matrix_file": "like matrix",
    "matrix_model": "like matrix",
    "yaml_source": "like matrix",
    "data": "held by SHA-256, in the key",
    "data_sources": "like data",
    "base_image": "what is made has an id or the hash of a lock, in the key",
    "container_engine": "like base_image",
    "cpu_wheel": "like base_image",
    "environments": "like base_image",
    "foreign_image": "like base_image",
    "images": "like base_image",
    "kept_base": "like base_image",
    "locks": "like base_image",
    "network": "like base_image",
    "oci_labels": "like base_image",
    "pip_client": "like base_image",
    "wheelhouse": "like base_image",
}


def digest(package: Path = _PACKAGE) -> str:
    """A short hash of the source of what measures, in the folder of bench that runs or in another one."""
    found = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        if measures(".".join(path.relative_to(package).with_suffix("").parts)):
            content = path.read_bytes()
            found.update(f"{path.relative_to(package)}\0{len(content)}\0".encode() + content)
    return found.hexdigest()[:16]


def measures(module: str) -> bool:
    """Whether a module, named from inside bench as in `telemetry.sampler`, is one of MODULES or of their packages."""
    return module.partition(".")[0] in MODULES and module not in OTHERS
