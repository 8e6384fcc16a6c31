"""What an image says of itself, by the names that the Open Container Initiative gives: source, revision, versions.

source   image-spec, annotations.md: "Pre-Defined Annotation Keys"
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import bench
from bench import frameworks
from bench.machine import checkout

if TYPE_CHECKING:
    from bench.provision.base import Base
    from bench.provision.locks import Lock

_PREFIX = "org.opencontainers.image."


def oci_labels(lock: Lock, base: Base) -> dict[str, str]:
    """Labels for an image with this lock on this base; none of them decides whether an image is current.

    `source` is the checkout's remote without credentials, or this package's own name as a package URL (purl);
    `bench.versions` is JSON, every package of the lock and the base's Python.
    """
    title = f"{frameworks.title(lock.framework)} {lock.version} ({lock.flavour})"
    versions = {"python": base.python, **{pin.name: pin.version for pin in lock.pins}}
    return {
        f"{_PREFIX}title": title,
        f"{_PREFIX}description": f"{title} with NumPy, as bench measures it; the worker is mounted, never inside",
        f"{_PREFIX}source": _source(),
        f"{_PREFIX}revision": _revision(),
        f"{_PREFIX}version": lock.version,
        f"{_PREFIX}base.digest": base.id,
        "bench.versions": json.dumps(versions, sort_keys=True),
    }


def _revision() -> str:
    """The checkout's commit, with a mark where its code differs; the release, for an installed wheel."""
    found = checkout.checkout()
    return f"{found['commit']}-dirty" if found["dirty"] else found["commit"] or bench.__version__


def _source() -> str:
    return checkout.remote() or f"pkg:pypi/tf-torch-bench@{bench.__version__}"
