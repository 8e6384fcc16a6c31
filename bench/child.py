"""Programs of bench's own that it starts beside itself: the sampler and the reaper. Standard library, little of it."""

from __future__ import annotations

import os
from pathlib import Path


def environment() -> dict[str, str]:
    """This process's own, in which `bench` is the one that runs here, whatever folder one stands in."""
    root = Path(__file__).resolve().parents[1]
    installed = root.name in ("site-packages", "dist-packages")
    path = [os.environ.get("PYTHONPATH", ""), "" if installed else str(root)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONSAFEPATH": "1"}
