"""A trial: one cell, built once, then driven by the worker's verbs."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from workloads.contract import Cell, Unsupported, finite

if TYPE_CHECKING:
    from workloads.runtime import Array, Arrays, Program

# Batches placed on the device before timing; a step takes the next, round and round.
POOL_BATCHES = 16
# Batches that an evaluation's training may hold at once: a thousand small ones, never gigabytes of large ones.
EVALUATION_BYTES = 256 * 2**20


_LOWER = "lower the learning rate if it was raised"


@dataclass(frozen=True)
class Batches:
    """`count` batches to train on, of which `at_once` are held: `draw` gives those from a first one on, so many."""

    draw: Callable[[int, int], Arrays]
    count: int
    at_once: int

    def stretch(self, first: int) -> Arrays:
        """As many from `first` on as may be held."""
        return self.draw(first, min(self.at_once, self.count - first))


@dataclass
class Trial:
    """One cell in one process. `position` counts steps, so that every slice goes on with the next batch.

    expected  what an inference gave before timing, batch by batch
    kept      (step, output) of the present slice that are looked at after it
    held      arrays of the last trace that were too large for one answer
    """

    cell: Cell
    framework: str
    seed: int
    data: Path | None
    runtime: ModuleType
    spec: ModuleType
    twin: ModuleType
    program: Program
    position: int = 0
    expected: list[Array] | None = None
    kept: list[tuple[int, Any]] = field(default_factory=list)
    held: dict[str, Arrays] = field(default_factory=dict)
    draw: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311 - replayable on purpose

    @classmethod
    def open(
        cls, *, cell: dict[str, Any], framework: str, seed: int, data: str | None, gpu: Mapping[str, str] | None = None
    ) -> tuple[Trial, dict[str, Any]]:
        """Import, build, take the first step. `framework` is the cell's, or `reference`; `gpu` is the one found here.

        returns  import_s, data_s (reading or making the inputs), build_s, first_step_s; whether the compile cache was
                 empty before; versions; effective flags; parameter count; inputs' SHA-256; timer_ns, the cost of a pair
                 of readings of the clock; gpu as found
        """
        named = Cell.from_json(cell)
        os.environ.update(thread_variables(named.threads))  # NumPy and OpenMP read them when they load
        cache_empty = own_compile_cache(named)
        runtime = importlib.import_module(f"workloads.runtime.{framework}")
        runtime.prepare(named)
        own = getattr(runtime, "TWIN", framework)
        imported, import_s = _timed(lambda: _import(named, own))
        spec, twin = imported
        runtime.configure(named)
        folder = Path(data) if data else None
        (weights, batches), data_s = _timed(lambda: inputs(spec, named, seed, folder, POOL_BATCHES))
        program, build_s = _timed(lambda: twin.build(cell=named, weights=weights, batches=batches))
        trial = cls(named, framework, seed, folder, runtime, spec, twin, program)
        first, first_step_s = _timed(lambda: program.fetch(trial.step()))
        return trial, {
            "import_s": import_s,
            "data_s": data_s,
            "build_s": build_s,
            "first_step_s": first_step_s,
            "cache_empty": cache_empty,
            "first_output": _digest(first),
            "versions": {"python": python_version(), "numpy": _numpy_version(), **runtime.versions()},
            "effective": {**runtime.effective(), "cpus": sorted(os.sched_getaffinity(0)), "uid": os.getuid()},
            "parameter_count": program.parameter_count,
            "inputs_sha256": sha256(weights, batches),
            "timer_ns": timer_ns(),
            "gpu": gpu,
        }

    def warm(self, *, steps: int) -> dict[str, Any]:
        """Steps that are never part of an estimate, each timed: their length is what a pilot needs to know."""
        if self.cell.phase == "infer" and self.expected is None:
            self.expected = [self.program.fetch(self.program.step(i)).copy() for i in range(POOL_BATCHES)]
        step_ns = self._steps(steps)
        self.kept = []
        return {"step_ns": step_ns, "compilations": self.runtime.compilations()}

    def measure(self, *, steps: int, settle: int, sync: str) -> dict[str, Any]:
        """One slice: `settle` steps recorded apart, then `steps` steps, each timed (step) or as one total (slice).

        Either ends when the last output, of `train` the loss, is a NumPy array in host memory: the one ruler of all
        frameworks, on a CPU and on a GPU. Inference on a CPU has every output there, of a slice as well (`_slice`). No
        framework is asked to synchronise, which costs each something else.

        returns  settle_ns (settle,), step_ns (steps,) or (1,); start_ns and end_ns (CLOCK_MONOTONIC) and cpu_ns of the
                 whole slice, settling included; woke_cpu_ns and slept_cpu_ns, this process's CPU time on entry and
                 exit: what lies between an exit and the next entry was burnt while the arm should have stood still;
                 involuntary_switches and voluntary_switches of all threads in the slice
        """
        pushed, left = _switches()
        woke_cpu_ns, start_ns = time.process_time_ns(), time.monotonic_ns()
        settle_ns = self._steps(settle)
        self.kept = []
        step_ns = self._steps(steps) if sync == "step" else [self._slice(steps)]
        end_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns() - woke_cpu_ns
        pushed_after, left_after = _switches()
        self._check_kept()
        return {
            "settle_ns": settle_ns,
            "step_ns": step_ns,
            "start_ns": start_ns,
            "end_ns": end_ns,
            "cpu_ns": cpu_ns,
            "involuntary_switches": pushed_after - pushed,
            "voluntary_switches": left_after - left,
            "compilations": self.runtime.compilations(),
            "woke_cpu_ns": woke_cpu_ns,
            "slept_cpu_ns": time.process_time_ns(),
        }

    def soak(self, *, seconds: float, steps: int = 1) -> dict[str, Any]:
        """Slices of `steps` steps for so many seconds, for telemetry that moves slowly; never part of a ratio.

        returns  steps done in all, start_ns and end_ns (CLOCK_MONOTONIC), cpu_ns of this process
        """
        cpu_ns, start_ns, done = time.process_time_ns(), time.monotonic_ns(), 0
        while time.monotonic_ns() - start_ns < seconds * 1e9:
            self._slice(steps)
            self.kept = []
            done += steps
        end_ns = time.monotonic_ns()
        cpu_ns = time.process_time_ns() - cpu_ns
        return {"steps": done, "start_ns": start_ns, "end_ns": end_ns, "cpu_ns": cpu_ns}

    def evaluate(self, *, steps: int) -> dict[str, Any]:
        """Train from the initial weights for `steps` steps on the spec's batches, then evaluate in NumPy.

        No more than fit into EVALUATION_BYTES are held at once. A library that solves the problem outright does that
        instead: its `steps` are None, and `solver` names it.

        raises  ArithmeticError: the training diverged
        """
        parameters = self.cell.workload.mapping
        at_once = fitting_batches(self.spec, self.cell, self.seed, self.data)

        def batches(first: int, count: int) -> Arrays:
            found: Arrays = self.spec.batches(
                parameters, batch_size=self.cell.batch_size, count=count, seed=self.seed, data=self.data, first=first
            )
            return found

        weights = self.spec.initial_weights(parameters, self.seed)
        whole = lambda: self.spec.examples(parameters, self.seed)  # noqa: E731
        program, loss = self._trained(weights, Batches(batches, steps, at_once), whole, self.cell.mode)
        given = self.spec.evaluation_inputs(parameters, seed=self.seed, data=self.data)
        outputs = _in_batches(program.outputs, given, 1000)
        metrics = self.spec.evaluate(
            parameters, outputs=outputs, weights=program.weights(), seed=self.seed, data=self.data
        )
        how = {"steps": None, "solver": program.solver} if program.solver else {"steps": steps, "final_loss": loss}
        return {**how, **metrics, **self._cross_validated(weights, steps)}

    def _trained(
        self, weights: Arrays, batches: Batches, examples: Callable[[], tuple[Array, Array]], mode: str
    ) -> tuple[Program, float | None]:
        """A fresh program after a step on each of the batches, with the last one's loss; or after its solver."""
        train = replace(self.cell, phase="train", mode=mode)
        program = self.twin.build(cell=train, weights=weights, batches=batches.stretch(0))
        if program.solve:
            program.solve(*examples())
            return program, None
        for i in range(batches.count):
            if i and not i % batches.at_once:
                stretch = batches.stretch(i)
                program.give(stretch[self.spec.INPUT], stretch[self.spec.TARGET])
            loss = program.step(i % batches.at_once)
        last = float(program.fetch(loss))
        if finite(last) is None:
            raise ArithmeticError(f"training diverged: its loss after {batches.count} steps is {last}; {_LOWER}")
        return program, last

    def _cross_validated(self, weights: Arrays, steps: int) -> dict[str, Any]:
        """Each fold trained from the initial weights for as many steps; nothing where no folds are asked for.

        What is compiled is trained eagerly here: a fold is another shape, and would compile for longer than it trains.
        """
        parameters = self.cell.workload.mapping
        if not parameters.get("folds"):
            return {}
        from workloads.evaluation import cross_validation

        features, targets = self.spec.examples(parameters, self.seed)

        def score(train: Array, held: Array) -> float:
            x, y = features[train], targets[train]
            size = min(self.cell.batch_size, len(train))

            def batches(first: int, count: int) -> Arrays:
                found: Arrays = self.spec.in_batches(x, y, batch_size=size, count=count, seed=self.seed, first=first)
                return found

            at_once = max(1, EVALUATION_BYTES // (size * (x[0].nbytes + y[0].nbytes)))
            mode = "eager" if self.cell.mode == "compiled" else self.cell.mode
            program, _ = self._trained(weights, Batches(batches, steps, at_once), lambda: (x, y), mode)
            return float(self.spec.score(program.outputs(features[held]), targets[held]))

        folds = int(parameters["folds"])  # type: ignore[arg-type]
        return {"cross_validation": cross_validation(n=len(features), k=folds, seed=self.seed, score=score)}

    def peaks(self) -> dict[str, Any]:
        """The device allocator's peak, where there is one."""
        return {"device_peak_memory_bytes": self.runtime.device_peak_memory_bytes()}

    @property
    def reads_each(self) -> bool:
        """Whether a slice, too, ends each step when its output is an array in host memory."""
        return self.cell.phase == "infer" and self.cell.device != "cuda"

    def step(self) -> Any:
        """The next step; what it gives is not fetched."""
        output = self.program.step(self.position)
        self.position += 1
        return output

    def _steps(self, count: int) -> list[int]:
        """Each step from its call until its output is an array in host memory, in ns; the fetch waits for a device."""
        step, fetch, clock = self.program.step, self.program.fetch, time.perf_counter_ns
        position, times = self.position, [0] * count
        for part in self._parts(count):
            for i in part:
                before = clock()
                output = step(position + i)
                fetch(output)
                times[i] = clock() - before
            self.kept.append((position + part[-1], output))
        self.position += count
        return times

    def _slice(self, count: int) -> int:
        """All steps as one total, in ns, ended by fetching the last output.

        An answer on a CPU is read each time, as by whoever asked for it. Dispatch to a GPU stays asynchronous, and a
        loss is nobody's answer.
        """
        step, fetch, position = self.program.step, self.program.fetch, self.position
        parts, reads_each, kept = self._parts(count), self.reads_each, []
        before = time.perf_counter_ns()
        for part in parts:
            if reads_each:
                for i in part:
                    output = step(position + i)
                    fetch(output)
            else:
                for i in part:
                    output = step(position + i)
            kept.append((i, output))
        if not reads_each:
            fetch(output)
        total = time.perf_counter_ns() - before
        self.kept += [(position + i, output) for i, output in kept]
        self.position = position + count
        return total

    def _parts(self, count: int) -> tuple[range, ...]:
        """Steps of a slice, cut after those whose output is looked at: the last, of inference another one too."""
        cut = self.draw.randrange(count) if self.expected is not None and count else 0
        return tuple(part for part in (range(cut), range(cut, count)) if part)

    def _check_kept(self) -> None:
        """After timing: the outputs are real. An inference must give again what it gave before."""
        import numpy as np

        for i, output in self.kept:
            found = self.program.fetch(output)
            if not np.isfinite(found).all():
                raise ArithmeticError(f"the output after step {i + 1} is not finite; {_LOWER}")
            if self.expected is not None:
                before = self.expected[i % POOL_BATCHES]
                if not np.allclose(found, before, rtol=1e-4, atol=1e-4 * float(np.abs(before).max())):
                    raise ArithmeticError(f"the output after step {i + 1} differs from the one before timing")
        self.kept = []


def thread_variables(threads: int) -> dict[str, str]:
    """Pool sizes, for the environment; idle pools sleep and do not spin."""
    count = str(threads)
    return {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",
        "GOMP_SPINCOUNT": "0",
    }


def own_compile_cache(cell: Cell) -> bool | None:
    """Point compilers to a folder that the processes of this cell alone share.

    returns  whether nothing was in it: what is compiled now is compiled cold; None where the harness gave no folder
    """
    root = os.environ.get("BENCH_COMPILE_CACHE")
    if root is None:
        return None
    folder = Path(root) / hashlib.sha256(json.dumps(cell.to_json(), sort_keys=True).encode()).hexdigest()[:16]
    (folder / "xla").mkdir(parents=True, exist_ok=True)
    os.environ.update({
        "TF_XLA_FLAGS": f"--tf_xla_persistent_cache_directory={folder}/xla",
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
        "TRITON_CACHE_DIR": f"{folder}/triton",
        "CUDA_CACHE_PATH": f"{folder}/cuda",  # TensorFlow brings no code for Hopper: the driver compiles it from PTX
        "CUDA_CACHE_MAXSIZE": str(4 * 2**30),  # bytes, the most that it takes: what fell out would be compiled again
    })  # fmt: skip
    return not any(path.is_file() for path in folder.rglob("*"))


def python_version() -> str:
    """Of this interpreter, without `platform`: a worker's start is what fresh processes cost, block after block."""
    return ".".join(map(str, sys.version_info[:3]))


def timer_ns() -> float:
    """What a pair of readings of the clock costs, in ns: the median of 100 batches of 100 pairs."""
    clock, costs = time.perf_counter_ns, []
    for _ in range(100):
        before = clock()
        for _ in range(99):
            clock()
            clock()
        costs.append((clock() - before) / 100)
    return float(sorted(costs)[len(costs) // 2])


def inputs(
    spec: ModuleType, cell: Cell, seed: int, data: Path | None, count: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Initial weights and `count` batches, float32, from NumPy and one seed: the same bytes for every framework."""
    parameters = cell.workload.mapping
    weights = spec.initial_weights(parameters, seed)
    return weights, spec.batches(parameters, batch_size=cell.batch_size, count=count, seed=seed, data=data)


def fitting_batches(spec: ModuleType, cell: Cell, seed: int, data: Path | None) -> int:
    """How many batches fit into EVALUATION_BYTES; one at least."""
    _, one = inputs(spec, cell, seed, data, 1)
    return max(1, EVALUATION_BYTES // sum(array.nbytes for array in one.values()))


def sha256(*groups: Arrays) -> str:
    """One hash over names, shapes and bytes."""
    digest = hashlib.sha256()
    for group in groups:
        for name, array in group.items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _import(cell: Cell, framework: str) -> tuple[ModuleType, ModuleType]:
    """The workload's spec, and its module of that name."""
    folder = f"workloads.{cell.workload.name}"
    if importlib.util.find_spec(f"{folder}.{framework}") is None:
        raise Unsupported(f"{framework} has no part in {cell.workload.name}; leave it out of this comparison")
    return importlib.import_module(f"{folder}.spec"), importlib.import_module(f"{folder}.{framework}")


def _in_batches(outputs: Callable[[Array], Array], given: Array, size: int) -> Array:
    import numpy as np

    return np.concatenate([outputs(given[i : i + size]) for i in range(0, len(given), size)])


def _switches() -> tuple[int, int]:
    """Involuntary and voluntary, of all threads so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_nivcsw, usage.ru_nvcsw


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    before = time.perf_counter_ns()
    value = function()
    return value, (time.perf_counter_ns() - before) / 1e9


def _digest(output: Array) -> float | None:
    """A loss as it is; outputs by their mean magnitude."""
    import numpy as np

    return finite(float(np.mean(np.abs(output))))


def _numpy_version() -> str:
    import numpy as np

    return np.__version__
