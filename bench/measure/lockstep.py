"""One block: fresh workers for every arm, set up one by one, then slice by slice in turn while the others stand.

Under schedule `serial` no two arms are ever up together: each takes all its slices alone, from its start to its end,
before the next one starts. Lockstep is one company of all arms, serial is companies of one.
"""

from __future__ import annotations

import itertools
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bench import records
from bench.errors import WorkerFailed
from bench.launch.group import Group
from bench.measure import gates, parity
from bench.measure.stretch import Stretch
from bench.planning import schedule
from bench.planning.slices import OTHER_SYNC_EVERY
from bench.telemetry import BETWEEN_SOAKS_S
from workloads.contract import STUB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from bench.launch import Channel, Launcher
    from bench.matrix.comparison import Arm, Comparison
    from bench.planning.schedule import Planned
    from bench.planning.slices import Plan
    from bench.telemetry import Sampler

QUIET_S = 0.001  # before each slice: what the last answer left to do is done
# How long an answer may take, in seconds; compiled modes compile before they answer.
OPEN_LIMIT_S = {"eager": 180.0, "graph": 300.0, "compiled": 900.0}
CLOSE_LIMIT_S = 30.0
CLOSING_STEPS = 3
SOAK_S = 3.0
SLICE_LIMIT_S, SLICE_LIMIT_FACTOR = 60.0, 20.0


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every block of a run needs.

    arm_cpus  the processors of an arm, by its number of threads
    """

    launcher: Launcher
    sampler: Sampler | None
    arm_cpus: Mapping[int, frozenset[int]]
    seed: int
    data: Path | None
    schedule: str = "lockstep"
    soak_s: float | None = None  # of every arm in every block; None: where something is read that needs one
    room_s: float = 0.0  # for a block, within the matrix's budget; 0: no more than it takes

    def cpus_of(self, arm: Arm) -> frozenset[int]:
        """The processors of an arm."""
        return self.arm_cpus[arm.cell.threads]


@dataclass
class Block:
    """What a block gave: the outcome of every arm, and the raw samples of all slices."""

    planned: Planned
    order: tuple[str, ...]
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    spoiled: list[str] = field(default_factory=list)
    stretches: list[gates.Facts] = field(default_factory=list)
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
            "gates": [facts.to_json() for facts in self.stretches],
            "arms": self.outcomes,
        }

    def judge(self) -> None:
        """What of all that happened in its stretches spoils the block."""
        self.spoiled = gates.reasons(self.stretches)
        for facts in self.stretches:
            for arm, own in facts.arms.items():
                self.outcomes[arm] |= {
                    "idle_cpu_s": own.idle_cpu_s,
                    "slice_involuntary_switches": own.involuntary_switches,
                    "compilations": self.outcomes[arm]["compilations"] + own.compilations,
                }

    @property
    def left(self) -> tuple[str, ...]:
        """The arms that have not failed, in the order in which they are started."""
        return tuple(arm for arm in self.order if self.outcomes.get(arm, {}).get("status", "measured") == "measured")

    def fail(self, arm: str, failure: WorkerFailed) -> None:
        """One arm failed: the block does not count for it."""
        status = "unsupported" if failure.kind == "unsupported" else "failed"
        self._ends(arm, status=status, kind=failure.kind, reason=str(failure))
        self.logs[arm] = failure.log

    def stop(self, arm: str) -> None:
        """One arm failed without which nothing can be compared: the block is lost, and says by whom."""
        for other in self.left:
            self._ends(other, status="stopped", kind=None, reason=f"stopped because {arm} failed")

    def _ends(self, arm: str, **how: Any) -> None:
        self.outcomes[arm] = self.outcomes.get(arm, {}) | how | {"log": ""}


@dataclass(frozen=True, kw_only=True)
class Crew:
    """The arms of a block that are up together: an arm that fails leaves it, and the others go on where they can."""

    bench: Bench
    baseline: str
    block: Block
    group: Group
    company: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Those that have not failed."""
        return tuple(name for name in self.company if name in self.block.left)

    @contextmanager
    def leaving(self, stretch: Stretch | None = None) -> Iterator[None]:
        """What one arm does. Raises ArmFailed where the block ends with it: the baseline, or one of the last two."""
        try:
            yield
        except ArmFailed as failed:
            self.block.fail(failed.arm, advised(failed.failure, self.bench.schedule))
            if stretch:
                stretch.leave(failed.arm)
            remove(self.bench, self.group, failed.arm)
            if failed.arm == self.baseline or len(self.block.left) < 2:
                raise


def deciding_sync(phase: str) -> str:
    """How the times that decide are taken: throughput decides for train, latency for infer."""
    return records.SYNC[records.DECIDES[phase]]


def measure_block(bench: Bench, comparison: Comparison, planned: Planned, plan: Plan) -> Block:
    """The whole life of one block; a worker that fails is an outcome, an engine that is lost raises EngineLost.

    An arm that fails takes nobody with it, but where it is the baseline, or leaves fewer than two.
    """
    names = [arm.id for arm in comparison.arms]
    block = Block(planned=planned, order=schedule.start_order(names, planned, bench.seed))
    began = time.monotonic()
    try:
        for company in companies(block.order, bench.schedule):
            with Group() as group:
                crew = Crew(bench=bench, baseline=comparison.baseline, block=block, group=group, company=company)
                _measure(crew, comparison, plan)
        block.judge()
    except ArmFailed as failed:
        block.stop(failed.arm)
    block.wall_s = time.monotonic() - began
    return block


def _measure(crew: Crew, comparison: Comparison, plan: Plan) -> None:
    """All that arms do in a block that are up together. Raises ArmFailed where it ends the block."""
    bench, group, block = crew.bench, crew.group, crew.block
    arms = {arm.id: arm for arm in comparison.arms}
    for name in crew.names:
        with crew.leaving():
            start(bench, group, arms[name], schedule.padding(name, block.planned, bench.seed), block.outcomes)
    for name in crew.names:
        with crew.leaving():
            _warm(group, name, plan, block)
    _take_turns(crew, comparison, plan)
    _soak_all(crew, arms, plan)
    for name in crew.names:
        with crew.leaving():
            _close(bench, group, arms[name], plan, block)


def companies(names: Sequence[str], kind: str) -> tuple[tuple[str, ...], ...]:
    """Who is up together, one company after another: all arms in lockstep, each alone in serial."""
    return (tuple(names),) if kind == "lockstep" else tuple((name,) for name in names)


class ArmFailed(Exception):  # noqa: N818 - carries an outcome
    """Which arm failed, and how."""

    def __init__(self, arm: str, failure: WorkerFailed) -> None:
        super().__init__(str(failure))
        self.arm, self.failure = arm, failure


def advised(failure: WorkerFailed, kind: str) -> WorkerFailed:
    """The failure with its remedy, where memory ran out while all arms were up together."""
    if failure.kind != "oom" or kind != "lockstep":
        return failure
    advice = "where the arms do not fit into memory together, write schedule: serial into the matrix"
    return WorkerFailed(f"{failure}; {advice}", kind=failure.kind, log=failure.log)


def start(bench: Bench, group: Group, arm: Arm, padding: int, outcomes: dict[str, dict[str, Any]]) -> None:
    """A fresh worker for `arm`, opened alone, so that its import, build and first step are its own."""
    began_ns = time.monotonic_ns()
    channel = _started(bench, group, arm, padding)
    if bench.sampler:
        bench.sampler.watch(arm.id, channel.pid, channel.scope)
    opened = ask(group, arm.id, "open", limit_s=OPEN_LIMIT_S[arm.cell.mode], **_opening(bench, arm, channel))
    opened_ns = time.monotonic_ns()
    start_s = (opened_ns - began_ns) / 1e9 - opened["open_s"]  # process or container, and its Python
    opened.pop("pid")
    outcomes[arm.id] = {
        "status": "measured",
        "kind": None,
        "reason": None,
        "log": "",
        "image": channel.image,
        "start_s": round(start_s, 6),
        "spans": _opening_spans(began_ns, opened_ns, opened),
        **opened,
        "gpu": {**opened["gpu"], "request": channel.gpu.way} if channel.gpu else None,
    }


def start_together(bench: Bench, group: Group, arms: Sequence[Arm]) -> dict[str, WorkerFailed]:
    """A fresh worker for every arm, opened all at once: sooner, where nobody asks how long each took.

    returns  those that failed, which are still in the group where they were started at all
    """
    questions: dict[str, dict[str, Any]] = {}
    failures: dict[str, WorkerFailed] = {}
    for arm in arms:
        try:
            questions[arm.id] = _opening(bench, arm, _started(bench, group, arm, 0))
        except ArmFailed as failed:
            failures[arm.id] = failed.failure
    limit_s = max(OPEN_LIMIT_S[arm.cell.mode] for arm in arms)
    answers = group.ask_all(questions, "open", limit_s=limit_s)
    return failures | {arm: answer for arm, answer in answers.items() if isinstance(answer, WorkerFailed)}


def remove(bench: Bench, group: Group, arm: str) -> None:
    """Take the worker of an arm that failed away, so that nothing of it stands beside the others."""
    if arm in group.arms:
        if bench.sampler:
            bench.sampler.unwatch(arm)
        group.drop(arm)


def _started(bench: Bench, group: Group, arm: Arm, padding: int) -> Channel:
    group.settle()  # nobody beats while an engine starts a container
    try:
        channel = bench.launcher.start(cell=arm.cell, cpus=bench.cpus_of(arm), padding=padding)
    except WorkerFailed as failure:
        raise ArmFailed(arm.id, failure) from None
    group.add(arm.id, channel)
    return channel


def _opening(bench: Bench, arm: Arm, channel: Channel) -> dict[str, Any]:
    """What a worker is told when it is opened."""
    return {
        "cell": arm.cell.to_json(),
        "framework": arm.cell.framework.name,
        "seed": bench.seed,
        "data": bench.launcher.data_path(bench.data, arm.cell),
        "cpus": sorted(bench.cpus_of(arm)),
        "gpu": channel.gpu.uuid if channel.gpu else None,
    }


def _opening_spans(began_ns: int, opened_ns: int, opened: Mapping[str, Any]) -> dict[str, list[int]]:
    """When it came up, and when it built and first ran its step, which is when compilers work; CLOCK_MONOTONIC, ns."""
    built_ns = opened_ns - round((opened["open_s"] - opened["import_s"] - opened["data_s"]) * 1e9)
    ran_ns = built_ns + round((opened["build_s"] + opened["first_step_s"]) * 1e9)
    return {"start": [began_ns, built_ns], "compile": [built_ns, min(ran_ns, opened_ns)]}


def ask(group: Group, arm: str, verb: str, *, limit_s: float, **args: Any) -> dict[str, Any]:
    """Ask; a failure carries its arm's name upwards."""
    try:
        return group.ask(arm, verb, limit_s=limit_s, **args)
    except WorkerFailed as failure:
        raise ArmFailed(arm, failure) from None


def _warm(group: Group, arm: str, plan: Plan, block: Block) -> None:
    steps = plan.warm_steps[arm]
    limit_s = SLICE_LIMIT_S + SLICE_LIMIT_FACTOR * steps * plan.step_ns[arm] * 1e-9
    began_ns = time.monotonic_ns()
    warmed = ask(group, arm, "warm", limit_s=limit_s, steps=steps)
    block.outcomes[arm]["spans"]["warm_up"] = [began_ns, time.monotonic_ns()]
    block.outcomes[arm] |= {
        "warm_steps": steps,
        "slice_steps": plan.slices.steps[arm],
        "settle_steps": plan.slices.settle_steps,
        "warm_ns": warmed["step_ns"],
        "compilations": warmed["compilations"],
    }


def _take_turns(crew: Crew, comparison: Comparison, plan: Plan) -> None:
    """Round after round, every arm's slice in a shuffled order; every few rounds once more round in the other sync.

    Never two slices of an arm in a row, where there is another: the second would find its caches as it left them.
    """
    bench, block, company = crew.bench, crew.block, crew.names
    if not company:
        return
    sync = deciding_sync(comparison.arms[0].cell.phase)
    other = "slice" if sync == "step" else "step"
    compiled = {arm: block.outcomes[arm]["compilations"] for arm in company}
    arms = [arm for arm in comparison.arms if arm.id in company]
    stretch = Stretch(crew.group, arms, cpus={arm.id: bench.cpus_of(arm) for arm in arms}, compilations=compiled)
    for number, turn in enumerate(schedule.turns(company, block.planned, plan.slices.rounds, bench.seed)):
        syncs = (sync, other) if number % OTHER_SYNC_EVERY == OTHER_SYNC_EVERY - 1 else (sync,)
        for turn_sync, (position, arm) in itertools.product(syncs, enumerate(turn)):
            if arm in crew.names:
                with crew.leaving(stretch):
                    answer = _slice(crew.group, arm, plan, turn_sync, stretch)
                    block.samples += rows(answer, arm, number, position, turn_sync, plan.slices.steps[arm])
        block.rounds = number + 1
    if crew.names:
        block.stretches.append(stretch.facts(bench.sampler))


def _slice(group: Group, arm: str, plan: Plan, sync: str, stretch: Stretch) -> dict[str, Any]:
    group.settle()
    time.sleep(QUIET_S)
    steps, settle = plan.slices.steps[arm], plan.slices.settle_steps
    limit_s = SLICE_LIMIT_S + SLICE_LIMIT_FACTOR * (steps + settle) * plan.step_ns[arm] * 1e-9
    stretch.begin_slice(arm)
    answer = ask(group, arm, "measure", limit_s=limit_s, steps=steps, settle=settle, sync=sync)
    stretch.end_slice(arm, answer, steps)
    return answer


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


def _soak_all(crew: Crew, arms: Mapping[str, Arm], plan: Plan) -> None:
    """Some seconds of each arm for what moves too slowly for slices, in slices that decide; nothing where none is read.

    All before any is closed: an engine that clears up would run beside a soak.
    """
    bench, outcomes = crew.bench, crew.block.outcomes
    lengths_s = {name: _soak_s(bench, arms[name]) for name in crew.names}
    for name in lengths_s:
        outcomes[name]["soak"] = None
    with bench.sampler.soaking() if bench.sampler and any(lengths_s.values()) else nullcontext():
        for name, soak_s in lengths_s.items():
            if soak_s:
                crew.group.settle()
                time.sleep(BETWEEN_SOAKS_S)
                with crew.leaving():
                    outcomes[name]["soak"] = _soak(crew.group, arms[name], plan, soak_s)


def _soak(group: Group, arm: Arm, plan: Plan, soak_s: float) -> dict[str, Any]:
    steps = plan.slices.steps[arm.id] if deciding_sync(arm.cell.phase) == "slice" else 1
    limit_s = SLICE_LIMIT_S + soak_s + SLICE_LIMIT_FACTOR * steps * plan.step_ns[arm.id] * 1e-9
    return ask(group, arm.id, "soak", limit_s=limit_s, seconds=soak_s, steps=steps)


def _close(bench: Bench, group: Group, arm: Arm, plan: Plan, block: Block) -> None:
    """The trial's last figures; of a training, whether its program still does what was proved."""
    if bench.sampler:
        bench.sampler.unwatch(arm.id)
    outcome = block.outcomes[arm.id]
    if arm.cell.phase == "train" and arm.cell.workload.name != STUB:
        limit_s = 5 * SLICE_LIMIT_S + 2 * SLICE_LIMIT_FACTOR * CLOSING_STEPS * plan.step_ns[arm.id] * 1e-9
        found = ask(group, arm.id, "closing", limit_s=limit_s, steps=CLOSING_STEPS, most_s=0.0)
        outcome["closing"] = parity.closed(found, arm.cell, arm.id)
    closed = ask(group, arm.id, "close", limit_s=CLOSE_LIMIT_S)
    device_peak = closed.pop("device_peak_memory_bytes")
    outcome |= closed | {
        "peak_memory_bytes": closed["max_rss_bytes"] if device_peak is None else device_peak,
    }


def _soak_s(bench: Bench, arm: Arm) -> float:
    """How long this arm soaks: as asked; else only where its GPU, a replay or the processors' energy is read."""
    sampler = bench.sampler
    if bench.soak_s is not None or sampler is None:
        return bench.soak_s or 0.0
    slow = sampler.source == "replay" or sampler.package_energy_null is None
    return SOAK_S if slow or arm.cell.device == "cuda" else 0.0
