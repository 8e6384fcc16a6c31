"""Compare TensorFlow with PyTorch on identical workloads, and say how sure one can be.

For programs and notebooks: `run`, `resume`, `read` and `plan`, which docs/api.md shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.api import Plan, Run, plan, read, resume, run

__version__ = "0.1.0"
__all__ = ["Plan", "Run", "plan", "read", "resume", "run"]


def __getattr__(name: str) -> Any:
    """What is named in __all__ is loaded when it is asked for: workers' small programs need none of it."""
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("bench.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
