"""The stub's trial: the worker's own loop, clock and verbs around known work. Standard library alone.

A factor on the work is drawn once a process (`noise`), and from the seed and the padding of the environment, both of
which the harness has drawn for this arm of this block: the same run gives the same factors again.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from workloads import trial
from workloads.contract import Cell, Unsupported, Value
from workloads.stub import spec

STEPS_PER_SLOWING = 1000


@dataclass(kw_only=True)
class Runtime:
    """What the loop needs of a framework's runtime module."""

    recompiles: bool
    compiled: int = 0

    def compilations(self) -> int:
        """Constant, or rising with every question: a framework that retraces while it is timed."""
        self.compiled += self.recompiles
        return self.compiled

    def device_peak_memory_bytes(self) -> None:
        """There is no device."""


@dataclass(kw_only=True)
class Program:
    """One step is SHA-256 over the first `sizes(i)` bytes of a buffer; the digest is its output."""

    buffer: memoryview
    size: int
    slows: float
    slows_from: float = 0.0
    slows_until: float = math.inf
    parameter_count: int = 0

    def step(self, i: int) -> Any:
        """Step i; with `slows`, its work grows from step `slows_from` on, until `slows_until`, where it falls back."""
        size = self.size
        if self.slows and self.slows_from < i < self.slows_until:
            grown = 1 + self.slows * (i - self.slows_from) / STEPS_PER_SLOWING
            size = round(size * grown / spec.BLOCK_BYTES) * spec.BLOCK_BYTES
        return hashlib.sha256(self.buffer[:size])

    def fetch(self, value: Any) -> bytes:
        """The digest."""
        return bytes(value.digest())


@dataclass(kw_only=True)
class Dying(Program):
    """A program whose process ends in the midst of a block, without an answer."""

    dies_at: int

    def step(self, i: int) -> Any:
        """Step i, as long as there is one."""
        if i >= self.dies_at:
            print(f"dies at step {i}, as it was told", file=sys.stderr, flush=True)
            os._exit(3)
        return super().step(i)


class StubTrial(trial.Trial):
    """A trial whose program is a stub's; parity and evaluation do not exist."""

    @classmethod
    def open(
        cls, *, cell: dict[str, Any], framework: str, seed: int, data: str | None, gpu: Mapping[str, str] | None = None
    ) -> tuple[StubTrial, dict[str, Any]]:
        """Make the buffer and take the first step; on `cuda` too the work is the processor's."""
        named = Cell.from_json(cell)
        if named.mode != "eager":
            raise Unsupported(f"a stub runs in mode eager, not in {named.mode}")
        if named.device == "cuda" and gpu is None:
            raise Unsupported("a stub runs on cuda only where a GPU was asked for and is seen; choose device cpu")
        before = time.perf_counter_ns()
        given = named.framework.mapping
        factor = _number(given, "work", 1.0) * _noise(seed, _number(given, "noise", 0.0))
        slows = _number(given, "slows", 0.0)
        size = spec.work_bytes(named.workload.mapping, factor)
        buffer = memoryview(bytes(max(4 * size, spec.BLOCK_BYTES)))
        begins, ends = _number(given, "slows_from", 0.0), _number(given, "slows_until", math.inf)
        does: dict[str, Any] = {"size": size, "slows": slows, "slows_from": begins, "slows_until": ends}
        program = Program(buffer=buffer, **does)
        if "dies_at" in given and os.environ.get("BENCH_PADDING"):  # before the first block nothing is padded
            program = Dying(buffer=buffer, dies_at=int(_number(given, "dies_at", 0)), **does)
        runtime: Any = Runtime(recompiles=bool(given.get("recompiles", False)))
        module = ModuleType("stub")
        whole: Any = program
        opened = cls(named, framework, seed, Path(data) if data else None, runtime, module, module, whole)
        build_s = (time.perf_counter_ns() - before) / 1e9
        first_step_ns = opened._steps(1)[0]
        return opened, {
            "import_s": 0.0,
            "data_s": 0.0,
            "build_s": build_s,
            "first_step_s": first_step_ns / 1e9,
            "cache_empty": None,  # nothing is compiled
            "first_output": None,
            "versions": {"python": trial.python_version()},
            "effective": {"cpus": sorted(os.sched_getaffinity(0)), "uid": os.getuid()},
            "parameter_count": 0,
            "inputs_sha256": None,
            "timer_ns": trial.timer_ns(),
            "gpu": gpu,
        }

    def evaluate(self, *, steps: int) -> dict[str, Any]:
        """There is nothing to train."""
        raise Unsupported("a stub has nothing to train")

    def warm(self, *, steps: int) -> dict[str, Any]:
        """As for a framework, but with no outputs to remember."""
        step_ns = self._steps(steps)
        self.kept = []
        return {"step_ns": step_ns, "compilations": self.runtime.compilations()}

    def _check_kept(self) -> None:
        """The last digest is that of the bytes that were asked for."""
        i, output = self.kept[-1]
        if bytes(self.program.fetch(output)) != bytes(self.program.fetch(self.program.step(i))):
            raise ArithmeticError(f"the digest after step {i + 1} is wrong")
        self.kept = []


def _number(given: dict[str, Value], name: str, default: float) -> float:
    return float(given.get(name, default))  # type: ignore[arg-type]


def _noise(seed: int, sd: float) -> float:
    """exp(N(0, sd)), by the seed and the padding that the harness drew for this process."""
    if not sd:
        return 1.0
    padding = len(os.environ.get("BENCH_PADDING", ""))
    return random.Random(f"{seed}/{padding}").lognormvariate(0.0, sd)  # noqa: S311 - replayable on purpose
