"""The compile caches of a run, which go with it."""

from __future__ import annotations

import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from bench import paths, storage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def folder_of(run_id: str) -> Path:
    """Where the compile caches of a run lie."""
    return paths.cache_root() / "compile" / run_id


@contextmanager
def compile_cache(run_id: str) -> Iterator[Path]:
    """Where compilers keep what they made, for every block of the run; gone when the run is over."""
    folder = folder_of(run_id)
    with storage.told(folder, remedy=paths.ANOTHER_CACHE):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with paths.held(folder):
            yield folder
    finally:
        with suppress(OSError):
            shutil.rmtree(folder)
