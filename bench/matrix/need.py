"""What cells need to be started in, and under which name a run keeps it (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from workloads.contract import Cell, Named


class Need(NamedTuple):
    """What cells need to be started in: a framework, with its version or image, for a device."""

    framework: Named
    flavour: str = "cpu"

    @classmethod
    def of(cls, cell: Cell) -> Need:
        """The need of one cell."""
        return cls(cell.framework, cell.device)

    def __str__(self) -> str:
        return str(self.framework) if self.flavour == "cpu" else f"{self.framework} for {self.flavour}"


def of_launcher(framework: str, launcher: str) -> str:
    """The key under which `images` holds a framework in a run of several launchers."""
    return f"{framework} ({launcher})"


def image_of(images: Mapping[str, Any], cell: Mapping[str, Any]) -> Any:
    """What a run's `images` says of the one that a cell ran in; None where it says nothing."""
    framework = dict(cell["framework"])
    need = str(Need(Named.of(framework.pop("name"), framework), cell.get("device", "cpu")))
    return images.get(need) or images.get(of_launcher(need, cell.get("launcher", "")))
