"""What is known of each framework, as images/<name>/framework.toml says it: no module of bench knows one by name."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any

from bench import paths

if TYPE_CHECKING:
    from pathlib import Path

FILE = "framework.toml"


@dataclass(frozen=True, kw_only=True)
class Framework:
    """One framework.

    name       its folder in images/, and its modules in workloads/ and workloads/runtime/
    title      in prose; label: in the name of an arm
    default    whether it is compared where a matrix names none
    module     what is imported of it
    twin       the modules of the workloads that are its own, where they have another name than it
    libraries  whose versions the name of an arm tells; the first is the framework's own, as its workers report it
    modes      that it has, the usual one first
    packages   its own, by flavour: cpu, cuda; extras of them, such as `and-cuda`
    unused     a folder of its package that no worker reads
    variables  of the environment that its workers set for themselves, whatever an image sets
    cpu_wheel  whether its CPU build is another file of the same name and release
    zero_learning_rate  whether it takes one
    """

    name: str
    order: int
    title: str
    label: str
    module: str
    libraries: tuple[str, ...]
    modes: tuple[str, ...]
    packages: Mapping[str, str]
    extras: Mapping[str, str] = field(default_factory=dict)
    default: bool = False
    twin: str = ""
    unused: str | None = None
    variables: tuple[str, ...] = ()
    cpu_wheel: bool = False
    zero_learning_rate: bool = True

    @property
    def twins(self) -> str:
        """The name of its module in each workload that it has a part in."""
        return self.twin or self.name


def every() -> Mapping[str, Framework]:
    """All that bench comes with, by name, in their order."""
    return _read(paths.images_root())


def defaults() -> tuple[str, ...]:
    """Those that are compared where a matrix names none, the usual baseline first."""
    return tuple(name for name, one in every().items() if one.default)


def get(name: str) -> Framework | None:
    """One of them, or None."""
    return every().get(name)


def title(name: str) -> str:
    """As prose has it."""
    known = get(name)
    return known.title if known else name


def libraries() -> set[str]:
    """Of all of them: those whose versions the names of arms tell."""
    return {library for one in every().values() for library in one.libraries}


@cache
def _read(root: Path) -> Mapping[str, Framework]:
    found = [_framework(path) for path in root.glob(f"*/{FILE}")]
    return {one.name: one for one in sorted(found, key=lambda one: one.order)}


def _framework(path: Path) -> Framework:
    plain: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    unknown = plain.keys() - {one.name for one in fields(Framework)}
    if unknown:
        raise ValueError(f"{path}: unknown {', '.join(sorted(unknown))}")
    lists = {key: tuple(value) for key, value in plain.items() if isinstance(value, list)}
    return Framework(name=path.parent.name, **plain | lists)
