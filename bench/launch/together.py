"""Several launchers in one run, for cells that name different ones: `compare: launcher`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.launch import joined

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bench.launch import Channel, Launcher
    from workloads.contract import Cell


class Together:
    """Launchers by name; a worker is started by the one that its cell names."""

    def __init__(self, launchers: Mapping[str, Launcher]) -> None:
        self._launchers = launchers
        self.name = joined(launchers)
        engines = [one.engine_version for one in launchers.values()]
        self.engine_version = next((version for version in engines if version), None)

    def start(self, *, cell: Cell, cpus: frozenset[int], padding: int) -> Channel:
        """A fresh worker of the cell's launcher. Raises EngineLost, WorkerFailed."""
        return self._launchers[cell.launcher].start(cell=cell, cpus=cpus, padding=padding)

    def data_path(self, data: Path | None, cell: Cell) -> str | None:
        """As the cell's launcher has it."""
        return self._launchers[cell.launcher].data_path(data, cell)

    def close(self) -> None:
        """All of them."""
        for launcher in self._launchers.values():
            launcher.close()
