"""SYNTHETIC stored runs for tests of the report: invented numbers through bench.store.Store, never measured."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np

from bench.store import Store, StoredRun, read

ROUNDS = 12
SECONDS = {"start_s": 0.06, "import_s": 2.5, "data_s": 0.3, "build_s": 0.4, "first_step_s": 0.9}
COLD = {"import_s": 3.1, "build_s": 0.5, "first_step_s": 7.25}
NOISE = {"tensorflow": 0.011, "pytorch": 0.008}


def cell(workload: dict[str, Any], framework: str, **axes: Any) -> dict[str, Any]:
    """A cell as JSON, every axis given."""
    plain = {
        "workload": workload,
        "framework": {"name": framework},
        "phase": "train",
        "mode": "eager",
        "batch_size": 64,
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "division": "matched",
        "launcher": "docker",
    }
    return {**plain, **axes}


LINEAR = {"name": "linear_regression", "preset": "classic", "n": 5, "d": 1}
CNN = {"name": "mnist_cnn"}
COMPARISONS = {
    "linear_regression.train.eager.5": (LINEAR, {"batch_size": 5}, {"tensorflow": 250_000, "pytorch": 180_000}),
    "mnist_cnn.train.eager.64": (CNN, {}, {"tensorflow": 31_000_000, "pytorch": 30_400_000}),
    "mnist_cnn.infer.eager.64": (CNN, {"phase": "infer"}, {"tensorflow": 9_000_000, "pytorch": 9_010_000}),
}
# As an earlier version kept it, without cold times; one arm that found compiled code; and both arms cold.
PLANS: dict[str, Any] = {
    "linear_regression.train.eager.5": {},
    "mnist_cnn.train.eager.64": {"cold": {"tensorflow": COLD, "pytorch": None}},
    "mnist_cnn.infer.eager.64": {"cold": {"tensorflow": COLD, "pytorch": COLD}},
}
EVALUATIONS = {
    "linear_regression": {
        "mse": 2.1e-14,
        "max_weight_error": 1.5e-7,
        "weights": [2.0],
        "predictions": [{"x": 1.0, "y": 2.0}, {"x": 5.0, "y": 10.00001}],
        "steps": 1000,
    },
    "mnist_cnn": {"test_accuracy": 0.9731, "steps": 200},
}


def run_json() -> dict[str, Any]:
    """run.json of three comparisons."""
    return {
        "id": "20260102T030405-synthetic",
        "started_at": "2026-01-02T03:04:05Z",
        "finished_at": "2026-01-02T03:14:05Z",
        "launcher": "docker",
        "commit": "0123456789abcdef",
        "seed": 7,
        "schedule": "lockstep",
        "matrix": {
            "name": "synthetic",
            "budget": {
                "half_width": 0.01,
                "blocks": 8,
                "max_blocks": 40,
                "per_comparison_s": 300.0,
                "total_s": 3600.0,
            },
        },
        "environment": {
            "cpu": {"model": "Imaginary CPU", "logical": 4},
            "memory_bytes": 8 * 2**30,
            "distribution": "Debian GNU/Linux 12 (bookworm)",
            "kernel": "6.1",
            "virtualization": "kvm",
            "gpus": [],
        },
        "cpus": {
            "arms": {"1": [3]},
            "control": [0, 1, 2],
            "idle": [],
            "topology": "known",
            "why": "a core for each thread of an arm; of equal ones the last; the harness on other cores",
        },
        "telemetry": {"source": "none", "hz": 10},
        "comparisons": {
            name: {
                "key": f"key-of-{name}",
                "compare": ["framework"],
                "baseline": "tensorflow",
                "arms": {arm: cell(workload, arm, **axes) for arm in times},
            }
            for name, (workload, axes, times) in COMPARISONS.items()
        },
        "plans": copy.deepcopy(PLANS),
        "images": {arm: {"id": f"sha256:{arm}", "base": "sha256:one-base"} for arm in ("tensorflow", "pytorch")},
        "notes": ["these numbers are synthetic | not measured"],
    }


def outcome(arm: str, **changes: Any) -> dict[str, Any]:
    """One arm's outcome of a block, measured unless changed."""
    plain = {
        "status": "measured",
        "kind": None,
        "reason": None,
        "log": "",
        "versions": {"tensorflow": "2.21.0"} if arm.startswith("tensorflow") else {"torch": "2.13.0"},
        "effective": {"intra_op_threads": 1},
        "image": f"sha256:{arm[0] * 64}",
        "parameter_count": 2,
        **SECONDS,
        "warm_steps": 30,
        "slice_steps": 4,
        "settle_steps": 2,
        "peak_memory_bytes": 500 * 2**20,
        "cpu_s": 1.5,
        "idle_cpu_s": 0.01,
        "soak": None,
    }
    return {**plain, **changes}


def block(comparison: str, number: int, arms: dict[str, dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """One block's record."""
    plain = {
        "comparison": comparison,
        "block": number,
        "attempt": 0,
        "started_at": "2026-01-02T03:05:00Z",
        "order": sorted(arms),
        "rounds": ROUNDS,
        "wall_s": 12.0,
        "spoiled": [],
        "arms": arms,
    }
    return {**plain, **changes}


def steps(times: dict[str, float], number: int, *, slice_steps: int = 4, drift: dict[str, float] | None = None) -> Any:
    """Raw rows of a block; arm times in ns, block and round noise seeded by the block's number.

    drift  of an arm's step time from the first to the last round, as a share
    """
    rng = np.random.default_rng([number, 11])
    rows, clock = [], 1_000_000_000
    shared = rng.normal(0, 0.02)
    block_noise = {arm: rng.normal(0, NOISE.get(arm, 0.01)) for arm in times}
    for turn in range(ROUNDS):
        for position, arm in enumerate(times):
            slope = 1 + (drift or {}).get(arm, 0.0) * turn / (ROUNDS - 1)
            typical = times[arm] * slope * np.exp(shared + block_noise[arm] + rng.normal(0, 0.003))
            for sync in ("slice", "step"):
                own = [round(typical * np.exp(rng.normal(0, 0.002))) for _ in range(slice_steps)]
                settling = [round(1.1 * typical)] * 2
                start, end = clock, clock + sum(own)
                common = {"arm": arm, "round": turn, "position": position, "sync": sync}
                before = {**common, "start_ns": start - sum(settling), "end_ns": start, "cpu_ns": sum(settling)}
                rows += [{**before, "settling": True, "steps": 1, "time_ns": time} for time in settling]
                span = {**common, "settling": False, "start_ns": start, "end_ns": end, "cpu_ns": round(0.98 * sum(own))}
                if sync == "slice":
                    rows.append({**span, "steps": slice_steps, "time_ns": sum(own)})
                else:
                    rows += [{**span, "steps": 1, "time_ns": time} for time in own]
                clock = end + 1_000_000
    return rows


def certificate(comparison: str, arm: str = "pytorch", **changes: Any) -> dict[str, Any]:
    """One certificate, passed unless changed."""
    evaluation = EVALUATIONS[comparison.split(".", maxsplit=1)[0]]
    plain = {
        "comparison": comparison,
        "baseline": "tensorflow",
        "arm": arm,
        "status": "passed",
        "reason": "",
        "max_rel_error": 3.1e-7,
        "checks": [{"name": "loss", "arm": arm, "place": "step 1", "value": 1e-7, "limit": 1e-4, "passed": True}],
        "evaluations": {"tensorflow": evaluation, arm: copy.deepcopy(evaluation)},
    }
    return {**plain, **changes}


class Writer:
    """A run folder in the making."""

    def __init__(self, folder: Path, run: dict[str, Any] | None = None) -> None:
        self.run = run or run_json()
        self.store = Store.create(folder, self.run)

    def measured(self, comparison: str, count: int, **changes: Any) -> Writer:
        """`count` whole blocks of a comparison of COMPARISONS."""
        times = COMPARISONS[comparison][2]
        for number in range(count):
            self.add(block(comparison, number, {arm: outcome(arm) for arm in times}), steps(times, number, **changes))
        return self

    def add(self, record: dict[str, Any], rows: Any = ()) -> Writer:
        """One block."""
        self.store.append_block(record, list(rows))
        return self

    def certified(self, comparison: str, **changes: Any) -> Writer:
        """A certificate of a comparison."""
        self.store.append_certificate(certificate(comparison, **changes))
        return self

    def read(self) -> StoredRun:
        """The run as stored so far."""
        return read(self.store.folder)


def whole_run(folder: Path, blocks: int = 8) -> StoredRun:
    """Three comparisons, all certified, all blocks valid."""
    writer = Writer(folder)
    for name in COMPARISONS:
        writer.certified(name).measured(name, blocks)
    return writer.read()
