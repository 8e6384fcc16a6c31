"""PyTorch: threads, flags, versions; effective values, as the framework reports them."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workloads.contract import Cell, Unsupported
from workloads.cuda import cudnn_version, kernels
from workloads.runtime import DTYPES


def prepare(cell: Cell) -> None:
    """Set what PyTorch reads from the environment at import."""
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = str(cell.threads)
    if cell.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def configure(cell: Cell) -> None:
    """Set thread pools, denormals, TF32 and autotuning. Raises Unsupported: no such device, no such mode."""
    import torch

    if cell.mode == "graph":
        raise Unsupported("pytorch has no mode graph; choose eager or compiled")
    if cell.device == "cuda" and not torch.cuda.is_available():
        raise Unsupported("pytorch sees no CUDA device; choose device cpu")
    if cell.mode == "compiled":
        _require_compiler()
        _compile_each_program()
    torch.set_num_threads(cell.threads)
    torch.set_num_interop_threads(cell.threads)
    torch.set_flush_denormal(True)  # as TensorFlow's pool threads do
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True  # as TensorFlow does


def _require_compiler() -> None:
    """TorchInductor writes C++ and builds it. Raises Unsupported, before it fails at the first step with a page."""
    compilers = (os.environ.get("CXX"), "c++", "g++", "clang++")
    if not any(shutil.which(compiler) for compiler in compilers if compiler):
        raise Unsupported("torch.compile needs a C++ compiler; apt-get install g++, or use --launcher docker")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        raise Unsupported("torch.compile needs Python's headers; apt-get install python3-dev, or use --launcher docker")


def _compile_each_program() -> None:
    """Every program of a process is compiled as its first is, which is the one that is timed.

    Of itself torch.compile goes on in eager mode after eight programs of the same code, and treats a shape or a number
    that differs in the second of them as one that may be anything.
    """
    import torch._dynamo.config as dynamo

    wanted = {
        "recompile_limit": 256, "cache_size_limit": 256,  # in 2.6 and later, and before
        "fail_on_recompile_limit_hit": True, "fail_on_cache_limit_hit": True,
        "automatic_dynamic_shapes": False,
    }  # fmt: skip
    for name, value in wanted.items():
        if hasattr(dynamo, name):
            setattr(dynamo, name, value)


def device(cell: Cell) -> Any:
    """The torch.device of a cell."""
    import torch

    return torch.device("cuda" if cell.device == "cuda" else "cpu")


def set_precision(precision: str) -> None:
    """Modules, and what an optimizer counts its steps in, all made from now on, take this precision."""
    import torch

    torch.set_default_dtype(getattr(torch, DTYPES[precision].__name__))


def versions() -> dict[str, str]:
    """Versions of what computes; CUDA's and cuDNN's where they are part of the build."""
    import torch

    own = {"torch": torch.__version__, "cuda": torch.version.cuda}
    own["cudnn"] = cudnn_version() if torch.version.cuda else None
    return {name: version for name, version in own.items() if version}


def effective() -> dict[str, Any]:
    """Threads and flags as PyTorch reports them after start."""
    import torch

    return {
        "intra_op_threads": torch.get_num_threads(),
        "inter_op_threads": torch.get_num_interop_threads(),
        "onednn": torch.backends.mkldnn.is_available(),
        "tf32": torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32,
        "flush_denormals": torch.tensor([1e-40]).mul(1.0).item() == 0.0,
        "devices": [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"],
        "build_cuda": torch.version.cuda is not None,
        **_on_gpu(),
    }


def _on_gpu() -> dict[str, str]:
    import torch

    if not torch.cuda.is_available():
        return {}
    return {"gpu_kernels": kernels(torch.cuda.get_arch_list(), torch.cuda.get_device_capability())}


def device_peak_memory_bytes() -> int | None:
    """The GPU allocator's peak; None on a CPU, where there is no such counter."""
    import torch

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None


def wrap(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """The function as the mode runs it: eager as it is, compiled by torch.compile (TorchInductor)."""
    import torch

    return torch.compile(function) if mode == "compiled" else function


def compilations() -> int:
    """Graphs compiled so far; a count that rises while timed is a recompilation."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
