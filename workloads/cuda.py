"""What of CUDA a framework computes with: asked in the same way on both sides, where it was built with CUDA at all."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

NATIVE, PTX = "native", "PTX, compiled by the driver"


def cudnn_version() -> str | None:
    """Of the library that is loaded in this process or would be; None where there is none."""
    try:
        number = int(ctypes.CDLL("libcudnn.so.9").cudnnGetVersion())
    except (OSError, AttributeError):
        return None
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"


def kernels(built_for: Sequence[str], capability: tuple[int, int]) -> str:
    """Whether a GPU runs code of this build as it is, or the driver has to compile it at the first use.

    built_for   such as sm_80 (machine code) and compute_90 (PTX)
    capability  of the GPU, (major, minor); machine code serves its major version from its minor on
    source      CUDA C++ Programming Guide, "Binary Compatibility"
    """
    major, minor = capability
    codes = [name.removeprefix("sm_").rstrip("af") for name in built_for if name.startswith("sm_")]
    return NATIVE if any(divmod(int(code), 10)[0] == major and int(code) % 10 <= minor for code in codes) else PTX
