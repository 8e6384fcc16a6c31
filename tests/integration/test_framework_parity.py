"""Both frameworks against the NumPy reference: what is right is certified, and every mutation is seen.

Workers run in the real environments; a mutation is an edit of a copy of the workloads' package.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bench import data
from bench.environments import environment
from bench.errors import WorkerFailed
from bench.launch.group import Group
from bench.launch.local import start_process
from bench.parity import STEPS, Certificate, Side, Trace, certify
from workloads.contract import FRAMEWORKS, Cell, Named
from workloads.linear_regression import spec as linear_spec
from workloads.mnist_cnn import spec as cnn_spec

pytestmark = pytest.mark.framework

REPOSITORY = Path(__file__).resolve().parents[2]
SPECS: dict[str, Any] = {"linear_regression": linear_spec, "mnist_cnn": cnn_spec}
MUCH_BETTER_THAN_THE_BOUND = 1e-12
LIMIT_S = 300.0

Tracing = Callable[..., Side]


def cell(workload: str, framework: str, *, phase: str = "train", mode: str = "eager") -> Cell:
    return Cell(
        workload=Named.of(workload, SPECS[workload].parameters({})), framework=Named(framework), phase=phase, mode=mode,
        batch_size=8, device="cpu",
    )  # fmt: skip


@dataclass(frozen=True)
class Tracer:
    """Starts workers and keeps what the healthy ones said, for every certificate of the session."""

    cache: Path
    data: str

    def side(self, one: Cell, *, root: Path = REPOSITORY) -> Side:
        """An arm's two traces, from a worker of its own."""
        name = one.framework.name
        python = environment(framework=name, progress=print).python
        with Group() as group:
            group.add(name, start_process(python, root=root, cache=self.cache, padding=0))
            self._open(group, name, one)
            exact = self._trace(group, name, "fp64")
            return Side(arm=name, float64=exact, timed=self._trace(group, name, "fp32"))

    def reference(self, one: Cell) -> Trace:
        with Group() as group:
            group.add("reference", start_process(Path(sys.executable), root=REPOSITORY, cache=self.cache, padding=0))
            self._open(group, "reference", one)
            return self._trace(group, "reference", "fp64")

    def _open(self, group: Group, name: str, one: Cell) -> None:
        opened = group.ask(
            name, "open", limit_s=LIMIT_S, cell=one.to_json(), framework=name, seed=0, data=self.data, cpus=[]
        )
        assert opened["parameter_count"] > 0

    def _trace(self, group: Group, name: str, precision: str) -> Trace:
        return Trace.of(group.ask(name, "parity", limit_s=LIMIT_S, steps=STEPS, precision=precision))


@pytest.fixture(scope="module")
def tracer(tmp_path_factory: pytest.TempPathFactory) -> Tracer:
    return Tracer(tmp_path_factory.mktemp("compiled"), str(data.require(print).folder))


@pytest.fixture(scope="module")
def healthy(tracer: Tracer) -> Tracing:
    """The sides of the unedited twins, each traced once."""
    return cache(tracer.side)


@pytest.fixture(scope="module")
def reference(tracer: Tracer) -> Callable[[Cell], Trace]:
    return cache(tracer.reference)


def certified(
    reference: Trace, healthy: Tracing, workload: str, *, arm: Side | None = None, **axes: str
) -> Certificate:
    """TensorFlow against PyTorch, with `arm` in the place of the healthy side of its framework."""
    sides = {name: healthy(cell(workload, name, **axes)) for name in FRAMEWORKS if arm is None or name != arm.arm}
    if arm is not None:
        sides[arm.arm] = arm
    return certify(reference=reference, baseline=sides["tensorflow"], arm=sides["pytorch"], precision="fp32")


@pytest.mark.parametrize(
    ("workload", "phase", "mode"),
    [
        ("linear_regression", "train", "eager"),
        ("linear_regression", "infer", "eager"),
        ("linear_regression", "train", "compiled"),
        ("mnist_cnn", "train", "eager"),
        ("mnist_cnn", "infer", "eager"),
    ],
)
def test_both_frameworks_do_the_reference_s_work_to_rounding(
    healthy: Tracing, reference: Any, workload: str, phase: str, mode: str
) -> None:
    if mode == "compiled" and not shutil.which("g++"):
        pytest.skip("torch.compile needs g++ with the local launcher")
    truth = reference(cell(workload, "tensorflow", phase=phase))
    certificate = certified(truth, healthy, workload, phase=phase, mode=mode)
    assert certificate.status == "passed", certificate.reason
    assert certificate.max_rel_error is not None
    assert certificate.max_rel_error < MUCH_BETTER_THAN_THE_BOUND


CNN, LINEAR = "mnist_cnn", "linear_regression"
RATE = "lr=spec.learning_rate(cell.workload.mapping)"
MU = "spec.momentum(cell.workload.mapping)"
LAYOUT = "array = array.reshape(5, 5, 64, 128).transpose(3, 2, 0, 1).reshape(128, -1)"
MUTATIONS = {
    "learning rate": (CNN, "pytorch", RATE, f"{RATE} * 1.0001"),
    "learning rate in float32": (LINEAR, "pytorch", RATE, "lr=float(torch.tensor(0.1, dtype=torch.float32))"),
    "learning rate at the timed precision alone": (CNN, "pytorch", RATE, f"{RATE} * (1 + (cell.precision == 'fp32'))"),
    "momentum": (CNN, "pytorch", f"momentum={MU}", "momentum=0.899"),
    "momentum in float32": (CNN, "tensorflow", f"np.float64({MU})", MU),
    "nesterov": (CNN, "tensorflow", "    optimizer.build(", "    optimizer.nesterov = True\n    optimizer.build("),
    "layout": (CNN, "pytorch", LAYOUT, "array = array.T"),
    "reduction": (CNN, "pytorch", "nn.CrossEntropyLoss()", 'nn.CrossEntropyLoss(reduction="sum")'),
    "half a loss": (LINEAR, "tensorflow", "model(x, training=True) - y)) / 2", "model(x, training=True) - y))"),
    "bias": (LINEAR, "tensorflow", "model(x, training=True) - y", "model(x, training=True) - model.weights[1] - y"),
    "labels": (CNN, "pytorch", "torch.from_numpy(batch).to(device(cell))", "torch.from_numpy(batch[::-1].copy())"),
    "order of batches": (LINEAR, "pytorch", "step(features[i % len(features)], targets[i % len(targets)])",
                         "step(features[-i % len(features)], targets[-i % len(targets)])"),
    "pooling": (CNN, "tensorflow", "keras.layers.MaxPooling2D(2),\n        keras.layers.Flatten()",
                "keras.layers.AveragePooling2D(2),\n        keras.layers.Flatten()"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_fails_the_certificate_and_names_the_arm(
    tracer: Tracer, healthy: Tracing, reference: Any, source_tree: Callable[[], Path], edit: Any, name: str
) -> None:
    workload, framework, old, new = MUTATIONS[name]
    tree = source_tree()
    edit(tree / "workloads" / workload / f"{framework}.py", old, new)
    truth = reference(cell(workload, "tensorflow"))
    certificate = certified(truth, healthy, workload, arm=tracer.side(cell(workload, framework), root=tree))
    assert certificate.status == "failed"
    assert certificate.reason.startswith(f"{framework}: ")
    assert {check.arm for check in certificate.checks if not check.passed} - {"pytorch"} <= {framework}
    if name == "learning rate at the timed precision alone":
        assert certificate.reason.startswith("pytorch: fp32 losses")
    else:
        assert ": float64 " in certificate.reason


@pytest.mark.parametrize(
    ("framework", "old", "new", "words"),
    [
        ("tensorflow", 'Conv2D(64, 3, padding="valid")', 'Conv2D(64, 3, padding="same")', "ValueError"),
        ("pytorch", "nn.Conv2d(32, 64, 3, padding=0)", "nn.Conv2d(32, 64, 3, padding=1)", "RuntimeError"),
        ("pytorch", "nn.Linear(128, 10)", "nn.Linear(128, 10, bias=False)", "ValueError"),
        ("tensorflow", "keras.layers.Dense(10)", "keras.layers.Dense(10, use_bias=False)", "ValueError"),
    ],
    ids=["padding of tensorflow", "padding of pytorch", "no bias in pytorch", "no bias in tensorflow"],
)
def test_another_architecture_cannot_even_take_the_weights(
    tracer: Tracer, source_tree: Callable[[], Path], edit: Any, framework: str, old: str, new: str, words: str
) -> None:
    tree = source_tree()
    edit(tree / "workloads/mnist_cnn" / f"{framework}.py", old, new)
    with pytest.raises(WorkerFailed, match=f"^{framework}: {words}") as caught:
        tracer.side(cell(CNN, framework), root=tree)
    assert caught.value.kind == "failed"


def test_bench_parity_refuses_such_an_arm_with_its_error_and_exits_3(
    source_tree: Callable[[], Path], edit: Any, borrowed_cache: Path, tmp_path: Path
) -> None:
    tree = source_tree()
    edit(tree / "workloads/linear_regression/pytorch.py", 'nn.Linear(len(weights["weight"]), 1)', "nn.Linear(3, 1)")
    done = subprocess.run(
        [sys.executable, "-m", "bench", "parity", "linear_regression", "--launcher", "local", "--format", "json"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tree), "BENCH_CACHE": str(borrowed_cache)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    records = json.loads(done.stdout)
    assert [record["comparison"] for record in records] == ["linear_regression-train", "linear_regression-infer"]
    for record in records:
        assert record["status"] == "failed"
        assert "pytorch: RuntimeError" in record["reason"]
