"""Which of bench's own modules measure: their code is a part of what every number depends on.

They start, drive, time, judge, repeat or end the work of the arms, or read the machine meanwhile. All others prepare
(what they prepare is held by its own hash or stands in run.json), keep, or tell: see `OTHERS`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]

# A package stands for all of its modules, but for those that are named themselves.
MODULES = (
    "child",
    "engine",
    "launch",
    "machine",
    "matrix.comparison",
    "measure",
    "planning",
    "records",
    "stats",
    "telemetry",
)
# Beside those that measure, or imported by them, and no part of the measurement: why not.
OTHERS = {
    "engine.client": "how an engine is reached and asked",
    "engine.words": "words",
    "errors": "words",
    "frameworks": "what it says is in the key: cells, images, modes",
    "estimate": "is worked out again from what was kept",
    "launch.clean": "removes what dead runs left",
    "machine.check": "tells before a run what would disturb it",
    "machine.checkout": "names the commit",
    "matrix": "its result is in the key: the cells, the seed, the schedule",
    "measure.outlook": "tells whether the time will do",
    "measure.prove": "measures nothing",
    "measure.provenance": "makes the key",
    "paths": "where things lie",
    "provision": "what is made has an id or the hash of a lock, in the key; data are held by SHA-256",
    "storage": "words",
    "store": "keeps what was measured",
    "text": "words",
    "telemetry.attribution": "tells of what was kept",
    "telemetry.trace": "records a machine, not a run",
    "telemetry.windows": "tells of what was kept",
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
    return named(module) in MODULES


def named(module: str) -> str | None:
    """Its own name or that of the innermost package around it, whichever stands in MODULES or OTHERS; None without."""
    while module:
        if module in MODULES or module in OTHERS:
            return module
        module = module.rpartition(".")[0]
    return None
