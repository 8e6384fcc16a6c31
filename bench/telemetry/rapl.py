"""The energy that the processors of this machine used, from the kernel's powercap files (RAPL) where they can be read.

It is that of whole packages: of everything that ran on them, not of one arm. Many virtual machines have none, and since
2020 the files are root's own; then there is no figure, and a reason. Standard library alone: the sampler imports this.

Sources: Linux Documentation/power/powercap/powercap.rst; CVE-2020-8694 for the files' mode.
"""

from __future__ import annotations

import os
from pathlib import Path

_ZONES = "sys/class/powercap"


class _Package:
    """One package's counter, which begins anew at its range."""

    def __init__(self, folder: Path) -> None:
        self._range_uj = int((folder / "max_energy_range_uj").read_bytes())
        self._descriptor = os.open(folder / "energy_uj", os.O_RDONLY)
        self._last = self._added = 0

    def read(self) -> int:
        """Energy since some time before the first reading, µJ, wraps taken out."""
        value = int(os.pread(self._descriptor, 32, 0))
        if value < self._last:
            self._added += self._range_uj
        self._last = value
        return value + self._added

    def close(self) -> None:
        os.close(self._descriptor)


class Packages:
    """All packages of this machine, open for reading; `null` says why there is nothing to read."""

    def __init__(self, *, root: Path = Path("/")) -> None:
        self.null: str | None = None
        self._packages: list[_Package] = []
        folders = [path for path in sorted((root / _ZONES).glob("intel-rapl:*")) if path.name.count(":") == 1]
        packages = [path for path in folders if _name(path).startswith("package-")]
        if not packages:
            self.null = "this machine shows no energy counter of its processors (powercap)"
        for folder in packages:
            try:
                self._packages.append(_Package(folder))
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                self._fail(f"{folder.name}/energy_uj: {reason}")
                return

    @property
    def readable(self) -> bool:
        """Whether every package can be read."""
        return bool(self._packages)

    def read(self) -> int | None:
        """Energy of all packages together since some time before, µJ; None once one cannot be read."""
        if not self._packages:
            return None
        try:
            return sum(package.read() for package in self._packages)
        except (OSError, ValueError) as error:
            self._fail(str(error))
            return None

    def close(self) -> None:
        """Close every descriptor."""
        for package in self._packages:
            package.close()
        self._packages = []

    def _fail(self, reason: str) -> None:
        self.null = reason
        self.close()


def _name(folder: Path) -> str:
    try:
        return (folder / "name").read_text().strip()
    except OSError:
        return ""
