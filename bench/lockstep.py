"""One block: fresh workers for every arm, set up one by one, then slice by slice in turn while the others stand."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bench import schedule
from bench.errors import WorkerFailed
from bench.launch.group import Group
from bench.schedule import Planned, SlicePlan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bench.comparison import Arm, Comparison
    from bench.launch import Launcher
    from bench.telemetry import Sampler

QUIET_S = 0.001  # before each slice: what the last answer left to do is done
OTHER_SYNC_EVERY = 4  # rounds: the sync that does not decide is sampled too, less often
# How long an answer may take, in seconds; compiled modes compile before they answer.
OPEN_LIMIT_S = {"eager": 180.0, "graph": 300.0, "compiled": 900.0}
CLOSE_LIMIT_S = 30.0
SOAK_S = 3.0
SLICE_LIMIT_S, SLICE_LIMIT_FACTOR = 60.0, 20.0


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every block of a run needs."""

    launcher: Launcher
    sampler: Sampler | None
    arm_cpus: frozenset[int]
    seed: int
    data: Path | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A comparison's slices and warm-up, from its pilot; the same in every block, and in a resumed run."""

    slices: SlicePlan
    warm_steps: Mapping[str, int]
    step_ns: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """As kept in run.json."""
        return {
            "steps": dict(self.slices.steps),
            "settle_steps": self.slices.settle_steps,
            "rounds": self.slices.rounds,
            "warm_steps": dict(self.warm_steps),
            "step_ns": dict(self.step_ns),
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Plan:
        """The inverse of `to_json`."""
        slices = SlicePlan(steps=plain["steps"], settle_steps=plain["settle_steps"], rounds=plain["rounds"])
        return cls(slices=slices, warm_steps=plain["warm_steps"], step_ns=plain["step_ns"])


@dataclass
class Block:
    """What a block gave: the outcome of every arm, and the raw samples of all slices."""

    planned: Planned
    order: tuple[str, ...]
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    spoiled: list[str] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    rounds: int = 0
    wall_s: float = 0.0

    def record(self) -> dict[str, Any]:
        """The line of blocks.jsonl, logs apart."""
        return {
            "comparison": self.planned.comparison,
            "block": self.planned.block,
            "attempt": self.planned.attempt,
            "started_at": self.started_at,
            "order": list(self.order),
            "rounds": self.rounds,
            "wall_s": round(self.wall_s, 3),
            "spoiled": self.spoiled,
            "arms": self.outcomes,
        }

    def fail(self, arm: str, failure: WorkerFailed) -> None:
        """One arm failed: the block is lost, and says by whom."""
        status = "unsupported" if failure.kind == "unsupported" else "failed"
        self._ends(arm, status=status, kind=failure.kind, reason=str(failure))
        self.logs[arm] = failure.log
        for other in self.order:
            if other != arm:
                self._ends(other, status="stopped", kind=None, reason=f"stopped because {arm} failed")

    def _ends(self, arm: str, **how: Any) -> None:
        self.outcomes[arm] = self.outcomes.get(arm, {}) | how | {"log": ""}


def deciding_sync(phase: str) -> str:
    """Throughput decides for train, latency for infer."""
    return "step" if phase == "infer" else "slice"


def measure_block(bench: Bench, comparison: Comparison, planned: Planned, plan: Plan) -> Block:
    """The whole life of one block; a worker that fails is an outcome, an engine that is lost raises EngineLost."""
    names = [arm.id for arm in comparison.arms]
    block = Block(planned=planned, order=schedule.start_order(names, planned, bench.seed))
    arms = {arm.id: arm for arm in comparison.arms}
    began = time.monotonic()
    with Group() as group:
        try:
            for name in block.order:
                start(bench, group, arms[name], schedule.padding(name, planned, bench.seed), block.outcomes)
            for name in block.order:
                _warm(group, name, plan, block)
            _take_turns(group, comparison, planned, plan, block, bench.seed)
            for name in block.order:
                _close(bench, group, arms[name], block)
        except ArmFailed as failed:
            block.fail(failed.arm, failed.failure)
    block.wall_s = time.monotonic() - began
    return block


class ArmFailed(Exception):  # noqa: N818 - carries an outcome
    """Which arm failed, and how."""

    def __init__(self, arm: str, failure: WorkerFailed) -> None:
        super().__init__(str(failure))
        self.arm, self.failure = arm, failure


def start(bench: Bench, group: Group, arm: Arm, padding: int, outcomes: dict[str, dict[str, Any]]) -> None:
    """A fresh worker for `arm`, opened alone, so that its import, build and first step are its own."""
    try:
        channel = bench.launcher.start(cell=arm.cell, cpus=bench.arm_cpus, padding=padding)
    except WorkerFailed as failure:
        raise ArmFailed(arm.id, failure) from None
    group.add(arm.id, channel)
    if bench.sampler:
        bench.sampler.watch(arm.id, channel.pid, channel.scope)
    opened = ask(
        group,
        arm.id,
        "open",
        limit_s=OPEN_LIMIT_S[arm.cell.mode],
        cell=arm.cell.to_json(),
        framework=arm.cell.framework.name,
        seed=bench.seed,
        data=bench.launcher.data_path(bench.data),
        cpus=sorted(bench.arm_cpus),
    )
    opened.pop("pid")
    outcomes[arm.id] = {
        "status": "measured",
        "kind": None,
        "reason": None,
        "log": "",
        "image": channel.image,
        **opened,
    }


def ask(group: Group, arm: str, verb: str, *, limit_s: float, **args: Any) -> dict[str, Any]:
    """Ask; a failure carries its arm's name upwards."""
    try:
        return group.ask(arm, verb, limit_s=limit_s, **args)
    except WorkerFailed as failure:
        raise ArmFailed(arm, failure) from None


def _warm(group: Group, arm: str, plan: Plan, block: Block) -> None:
    steps = plan.warm_steps[arm]
    limit_s = SLICE_LIMIT_S + SLICE_LIMIT_FACTOR * steps * plan.step_ns[arm] * 1e-9
    warmed = ask(group, arm, "warm", limit_s=limit_s, steps=steps)
    block.outcomes[arm] |= {
        "warm_steps": steps,
        "slice_steps": plan.slices.steps[arm],
        "settle_steps": plan.slices.settle_steps,
        "warm_ns": warmed["step_ns"],
        "compilations": warmed["compilations"],
    }


def _take_turns(group: Group, comparison: Comparison, planned: Planned, plan: Plan, block: Block, seed: int) -> None:
    """Round after round, every arm's slice in a shuffled order; the other sync's slice follows every few rounds."""
    sync = deciding_sync(comparison.arms[0].cell.phase)
    other = "slice" if sync == "step" else "step"
    slept_ns: dict[str, int] = {}
    idle_ns = dict.fromkeys(block.order, 0)
    for number, turn in enumerate(schedule.turns(block.order, planned, plan.slices.rounds, seed)):
        syncs = (sync, other) if number % OTHER_SYNC_EVERY == OTHER_SYNC_EVERY - 1 else (sync,)
        for position, arm in enumerate(turn):
            for turn_sync in syncs:
                answer = _slice(group, arm, plan, turn_sync)
                block.samples += rows(answer, arm, number, position, turn_sync, plan.slices.steps[arm])
                if arm in slept_ns:
                    idle_ns[arm] += answer["woke_cpu_ns"] - slept_ns[arm]
                slept_ns[arm] = answer["slept_cpu_ns"]
                _note_compilation(block, arm, answer["compilations"])
        block.rounds = number + 1
    for arm in block.order:
        block.outcomes[arm]["idle_cpu_s"] = idle_ns[arm] / 1e9


def _slice(group: Group, arm: str, plan: Plan, sync: str) -> dict[str, Any]:
    time.sleep(QUIET_S)
    steps, settle = plan.slices.steps[arm], plan.slices.settle_steps
    limit_s = SLICE_LIMIT_S + SLICE_LIMIT_FACTOR * (steps + settle) * plan.step_ns[arm] * 1e-9
    return ask(group, arm, "measure", limit_s=limit_s, steps=steps, settle=settle, sync=sync)


def rows(
    answer: Mapping[str, Any], arm: str, number: int, position: int, sync: str, steps: int
) -> list[dict[str, Any]]:
    """A slice's answer as rows of bench.store.STEP_COLUMNS."""
    shared = {
        "arm": arm,
        "round": number,
        "position": position,
        "sync": sync,
        "start_ns": answer["start_ns"],
        "end_ns": answer["end_ns"],
        "cpu_ns": answer["cpu_ns"],
    }
    each = steps if sync == "slice" else 1
    settling = [shared | {"settling": True, "steps": 1, "time_ns": ns} for ns in answer["settle_ns"]]
    return settling + [shared | {"settling": False, "steps": each, "time_ns": ns} for ns in answer["step_ns"]]


def _note_compilation(block: Block, arm: str, count: int) -> None:
    """A retrace or recompilation while timed spoils the block."""
    before = block.outcomes[arm]["compilations"]
    if count > before:
        block.spoiled.append(f"{arm} compiled {count - before} more graphs while it was timed")
        block.outcomes[arm]["compilations"] = count


def _close(bench: Bench, group: Group, arm: Arm, block: Block) -> None:
    """Where there is a GPU, a soak for its slow telemetry; then the trial's last figures."""
    soak = None
    if arm.cell.device == "cuda":
        soak = ask(group, arm.id, "soak", limit_s=SLICE_LIMIT_S + SOAK_S, seconds=SOAK_S)
    if bench.sampler:
        bench.sampler.unwatch(arm.id)
    closed = ask(group, arm.id, "close", limit_s=CLOSE_LIMIT_S)
    device_peak = closed.pop("device_peak_memory_bytes")
    block.outcomes[arm.id] |= closed | {
        "peak_memory_bytes": closed["max_rss_bytes"] if device_peak is None else device_peak,
        "soak": soak,
    }
