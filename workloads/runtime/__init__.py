"""What every framework's runtime offers, under the same names, and the Program that a workload's `build` returns.

A runtime module has: `prepare(cell)` environment variables, before the framework is imported; `configure(cell)`
threads and flags, after; `versions()`; `effective()` what is really in force; `wrap(function, mode)`; `compilations()`;
`device_peak_memory_bytes()`. TWIN names its modules in the workloads, where that is not its own name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

DTYPES: dict[str, type[np.floating[Any]]] = {"fp32": np.float32, "fp64": np.float64}


@dataclass(frozen=True, kw_only=True)
class Program:
    """A workload placed on the device, ready to step; weights and gradients leave it in the spec's neutral layout.

    step        i -> the step on batch i mod count; a device scalar (train: the loss) or the outputs (infer)
    give        (inputs, targets), (count, batch, …) each -> the step takes these batches from now on
    gradients   (i, eager=False) -> gradients of the loss on batch i at the present weights, nothing updated; by the
                function that `step` differentiates with, in the cell's mode or, for once, in eager mode
    outputs     inputs (batch, …) -> the forward pass in eager mode, for evaluation
    weights     the present weights
    fetch       a device value -> a NumPy array in host memory; waits for it, and for nothing else: a latency ends here
    solve       all features and targets -> weights that solve the problem outright, where a library does; and by what
    untold      i -> why the library cannot tell the loss of batch i at the present weights, where it cannot: for traces
    """

    parameter_count: int
    step: Callable[[int], Any]
    give: Callable[[Array, Array], None]
    gradients: Callable[..., dict[str, Array]]
    outputs: Callable[[Array], Array]
    weights: Callable[[], dict[str, Array]]
    fetch: Callable[[Any], Array]
    solve: Callable[[Array, Array], None] | None = None
    solver: str | None = None
    untold: Callable[[int], str | None] = lambda i: None


def at_precision(array: Array, dtype: Any) -> Array:
    """Real numbers at the cell's precision; whole ones, which are labels and tokens, as they are."""
    return array.astype(dtype) if np.issubdtype(array.dtype, np.floating) else array
