"""The stub, framework-neutral: a step hashes so many bytes with SHA-256, and nothing else.

Work, not a timed spin: the time of a step is whatever the processor takes for it, with its noise. What an arm does
differently is known exactly and stands in its framework's parameters: `work`, `noise`, `slows` with `slows_from` and
`slows_until`, `recompiles`, `dies_at`.
"""

from __future__ import annotations

from collections.abc import Mapping

from workloads.contract import Value

PARAMETERS = ("bytes",)
PRESETS: dict[str, dict[str, Value]] = {}
NEEDS_DATA = False
BLOCK_BYTES = 64  # SHA-256 works through whole blocks: work is counted in them
DEFAULT_BYTES = 262_144  # some 0.2 ms


def parameters(given: Mapping[str, Value]) -> dict[str, Value]:
    """All parameters. Raises ValueError with one sentence."""
    size = given.get("bytes", DEFAULT_BYTES)
    if type(size) is not int or not BLOCK_BYTES <= size <= 2**26:
        raise ValueError(f"bytes is {size!r}; it must be a whole number from {BLOCK_BYTES} to {2**26}")
    return {"bytes": size}


def batch_size(parameters: Mapping[str, Value], asked: int) -> int:
    """Any: a stub has no examples."""
    return asked


def work_bytes(parameters: Mapping[str, Value], factor: float) -> int:
    """Bytes of a step that does `factor` times the work, to the nearest whole block of SHA-256."""
    return max(1, round(int(parameters["bytes"]) * factor / BLOCK_BYTES)) * BLOCK_BYTES  # type: ignore[arg-type]
