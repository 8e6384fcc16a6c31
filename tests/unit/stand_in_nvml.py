"""What the stand-ins for the module pynvml share: its real constants and errors, and "not supported" to all else."""

from __future__ import annotations

from typing import Any, NoReturn

import pynvml


class NvmlStandIn:
    """Answers what a subclass defines; a constant is the real one, a query that nobody defined is not supported."""

    def __getattr__(self, name: str) -> Any:
        return _not_supported if name.startswith("nvmlDevice") else getattr(pynvml, name)


def _not_supported(*_: object, **__: object) -> NoReturn:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
