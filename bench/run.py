"""The one loop: provide, certify, measure block after block, and keep each before the next begins."""

from __future__ import annotations

import math
import secrets
import shutil
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bench import certification, data, environment, lockstep, parity, paths, provenance, schedule, stats, storage, store
from bench.errors import EngineLost, InputError, ProcessRefused, StorageFailed
from bench.launch.provide import provide_all
from bench.lockstep import Bench, Block, Plan
from bench.matrix import Matrix
from bench.report import frames
from bench.store import Store, StoredRun
from bench.telemetry import Sampler
from workloads.contract import STUB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from bench.comparison import Comparison
    from bench.console import View
    from bench.launch import Launcher

BUDGET_SPENT = "the budget"


@dataclass
class Run:
    """A run under way: what is fixed, and what grows.

    ratios  d of every contrast by stem of its block, (arms,): read once, since a stored block never changes
    noted   what was said of this run's notes
    """

    store: Store
    header: dict[str, Any]
    matrix: Matrix
    launcher: Launcher
    view: View
    bench: dict[int, Bench]
    control_cpus: frozenset[int]
    ratios: dict[str, dict[str, float]] = field(default_factory=dict)
    noted: set[str] = field(default_factory=set)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a run may be given instead of its prologues: a plan and certificates for every comparison."""

    plans: Mapping[str, Plan]
    certificates: Sequence[Mapping[str, Any]]


def new(
    matrix: Matrix, *, launchers: Sequence[str], out: Path, base: str | None, view: View,
    prepared: Prepared | None = None,
) -> Path:  # fmt: skip
    """Begin a run and carry it to its end; returns its folder. Raises BenchError, KeyboardInterrupt.

    launchers  one, for every cell; or several, each for the cells that name it
    """
    matrix = _resolve_devices(matrix)
    store.refuse_unmakeable(out)  # before environments and images are made, which takes minutes
    run_id = f"{matrix.name}-{fresh_id()}"
    folder = out / run_id
    with ExitStack() as stack:
        cache = stack.enter_context(compile_cache(run_id))
        dataset = _dataset(matrix, view)
        place = provenance.Place(run_id=run_id, cache=cache, data=dataset.folder if dataset else None, base=base)
        chosen, provisions = provide_all(launchers, matrix, place, view)
        stack.callback(chosen.close)
        if len(launchers) == 1 and any(cell.launcher != chosen.name for cell in matrix.cells):
            matrix = matrix.with_options(launcher=chosen.name)
        header = provenance.header(place, matrix, chosen, provisions, dataset)
        if prepared:
            header["plans"] = {name: plan.to_json() for name, plan in prepared.plans.items()}
        writer = Store.create(folder, header)
        stack.enter_context(writer.locked())
        for certificate in prepared.certificates if prepared else ():
            writer.append_certificate(certificate)
        with _told_how_to_resume(folder, view):
            _carry_on(writer, header, matrix, chosen, dataset, view)
    return folder


def resume(folder: Path, *, view: View) -> Path:
    """Go on where a run stopped. Raises InputError where what it measured is no longer the same."""
    stored = store.read(folder)
    header = {key: value for key, value in stored.run.items() if key != "schema"}
    matrix = Matrix.from_resolved(header["matrix"])
    with ExitStack() as stack:
        writer = Store(folder)
        stack.enter_context(writer.locked())
        store.repair(folder)
        cache = stack.enter_context(compile_cache(header["id"]))
        dataset = _dataset(matrix, view)
        place = provenance.Place(
            run_id=header["id"], cache=cache, data=dataset.folder if dataset else None, base=header["base"]
        )
        chosen, provisions = provide_all(matrix.launchers, matrix, place, view)
        stack.callback(chosen.close)
        provenance.refuse_changes(folder, header, provenance.header(place, matrix, chosen, provisions, dataset))
        with _told_how_to_resume(folder, view):
            _carry_on(writer, header, matrix, chosen, dataset, view)
    return folder


def _carry_on(
    writer: Store,
    header: dict[str, Any],
    matrix: Matrix,
    launcher: Launcher,
    dataset: data.DataSet | None,
    view: View,
) -> None:
    """Measure until nothing is pending, from the harness's own processors."""
    with ExitStack() as stack:
        threads = {arm.cell.threads for one in matrix.comparisons for arm in one.arms}
        arm_cpus, control_cpus = environment.cpusets(max(threads))
        stack.enter_context(environment.confined(control_cpus))
        sampler = stack.enter_context(Sampler(writer.folder, matrix.telemetry.hz, set(control_cpus)))
        folder = dataset.folder if dataset else None
        bench = {
            count: Bench(
                launcher=launcher,
                sampler=sampler,
                arm_cpus=environment.cpusets(count)[0] if count != max(threads) else arm_cpus,
                seed=matrix.seed,
                data=folder,
                schedule=matrix.schedule,
                soak_s=matrix.telemetry.soak_s,
            )
            for count in threads
        }
        run = Run(writer, header, matrix, launcher, view, bench, control_cpus)
        if _loop(run):
            header["finished_at"] = provenance.now()
            header["notes"] = [note for note in header["notes"] if not note.startswith(BUDGET_SPENT)]
            writer.write_run(header)


def _loop(run: Run) -> bool:
    """Block k of every comparison before block k + 1 of any; returns whether nothing is left to do."""
    budget = run.matrix.budget
    deadline = time.monotonic() + budget.total_s
    comparisons = {one.id: one for one in run.matrix.comparisons}
    run.view.plan(list(comparisons), blocks=budget.blocks or budget.max_blocks, deadline=deadline)
    while True:
        stored = store.read(run.store.folder)
        _read_ratios(run, stored)
        standing = {one.id: _stand(run, one, stored) for one in run.matrix.comparisons}
        done = {name: stand.finished for name, stand in standing.items() if stand.finished}
        run.view.stand(standing, done)
        due = schedule.pending(
            list(comparisons),
            stored.blocks,
            finished=done.keys(),
            seed=run.matrix.seed,
            least=None if budget.blocks else _least(run.matrix),
            remaining_s={name: stand.remaining_s for name, stand in standing.items()},
        )
        if not due:
            return True
        for planned in due:
            if time.monotonic() > deadline:
                _note(run, f"{BUDGET_SPENT} of {budget.total_s:.0f} s was spent; bench run --resume measures on")
                return False
            _one(run, comparisons[planned.comparison], planned)


def _one(run: Run, comparison: Comparison, planned: schedule.Planned) -> None:
    """One block, after the comparison's certificate where there is none yet."""
    bench = run.bench[comparison.arms[0].cell.threads]
    plan = _plan(run, bench, comparison, planned)
    if plan is None:
        return
    run.view.begin(comparison.id, planned.block)
    block = lockstep.measure_block(bench, comparison, planned, plan)
    _keep(run, block)
    _flush(run, bench, store.stem(block.record()))


def _plan(run: Run, bench: Bench, comparison: Comparison, planned: schedule.Planned) -> Plan | None:
    """The comparison's plan; on its first block this certifies and pilots. None: there is nothing to measure."""
    known = run.header["plans"].get(comparison.id)
    if known is not None:
        return Plan.from_json(known)
    began = time.monotonic()
    prologue = certification.begin(
        bench,
        comparison,
        cache=paths.cache_root() / "compile" / run.header["id"],
        control_cpus=run.control_cpus,
        view=run.view,
    )
    _flush(run, bench, f"{comparison.id}.prologue")  # whatever came of it: its readings are no block's
    if prologue.failed:
        block = Block(planned=planned, order=tuple(arm.id for arm in comparison.arms))
        block.fail(prologue.failed.arm, prologue.failed.failure)
        _keep(run, block)
        return None
    log = ""
    if prologue.refused:
        where = {"comparison": comparison.id, "block": planned.block, "attempt": planned.attempt}
        log = run.store.write_log(where, prologue.refused.arm, prologue.refused.failure.log)
    for arm, certificate in prologue.certificates.items():
        evaluations = {
            name: prologue.evaluations[name] for name in (comparison.baseline, arm) if name in prologue.evaluations
        }
        record = {"comparison": comparison.id, "baseline": comparison.baseline, "arm": arm}
        run.store.append_certificate(record | certificate.to_json() | {"evaluations": evaluations, "log": log})
        run.view.certified(comparison.id, arm, certificate)
    if prologue.plan:  # after the certificates: a run killed in between certifies again, and the later line counts
        lasted_s = round(time.monotonic() - began, 3)
        run.header["plans"][comparison.id] = {**prologue.plan.to_json(), "prologue_s": lasted_s}
        run.store.write_run(run.header)
    return prologue.plan


def _keep(run: Run, block: Block) -> None:
    """On disk, logs of the failed first; then said."""
    record = block.record()
    for arm, outcome in block.outcomes.items():
        if outcome["status"] in ("failed", "unsupported"):
            outcome["log"] = run.store.write_log(record, arm, block.logs.get(arm, ""))
            run.view.failed(record, outcome, block.logs.get(arm, ""))
    run.store.append_block(record, block.samples)
    run.view.kept(record)


def _flush(run: Run, bench: Bench, name: str) -> None:
    """Keep what the sampler read; where it has stopped, say so at once, and in the run's notes."""
    if bench.sampler:
        bench.sampler.flush_block(name)
        if bench.sampler.fault:
            _note(run, f"telemetry: {bench.sampler.fault}")


@dataclass(frozen=True, kw_only=True)
class Stand:
    """Where a comparison stands: valid blocks, the widest half-width of its contrasts, why it is finished.

    remaining_s  what it should still take to the wanted half-width, by the spread so far; infinite past its limits
    """

    blocks: int
    half_width: float | None
    finished: str | None
    remaining_s: float = math.inf


def _stand(run: Run, comparison: Comparison, stored: StoredRun) -> Stand:
    """From what is on disk alone, so that a resumed run stands where the killed one stood."""
    own = replace(
        stored,
        blocks=[record for record in stored.blocks if record["comparison"] == comparison.id],
        certificates=[record for record in stored.certificates if record["comparison"] == comparison.id],
    )
    if own.certificates and all(certificate["status"] == "failed" for certificate in own.certificates):
        return Stand(blocks=0, half_width=None, finished="parity failed")
    series = _series(run, comparison, own)
    spent_s = sum(record["wall_s"] for record in own.blocks)
    budget = run.matrix.budget
    return Stand(
        blocks=min(map(len, series), default=0),
        half_width=max((stats.half_width(one) for one in series if len(one) >= 2), default=None),
        finished=schedule.given_up(own.blocks, budget)
        or schedule.enough(series, budget, _least(run.matrix), spent_s=spent_s),
        remaining_s=schedule.remaining_s(series, budget, _least(run.matrix), spent_s=spent_s),
    )


def _least(matrix: Matrix) -> int:
    """Blocks that every comparison gets before any is given more than another."""
    return schedule.k_min(sum(len(one.contrasts) for one in matrix.comparisons))


def _read_ratios(run: Run, stored: StoredRun) -> None:
    """The log-ratios of the blocks that were stored since the last time, all of them read at once."""
    valid = [record for record in schedule.latest(stored.blocks) if schedule.valid(record)]
    fresh = [record for record in valid if store.stem(record) not in run.ratios]
    samples = frames.read(replace(stored, blocks=[dict(record) for record in fresh]))
    run.ratios |= {store.stem(record): {} for record in fresh}
    for comparison in run.matrix.comparisons:
        sync = lockstep.deciding_sync(comparison.arms[0].cell.phase)
        own = [record for record in fresh if record["comparison"] == comparison.id]
        for baseline, arm in comparison.contrasts if own else ():
            both = [one for one in own if all(one["arms"][side.id]["status"] == "measured" for side in (baseline, arm))]
            rounds = frames.round_log_ratios(samples, comparison.id, baseline=baseline.id, arm=arm.id, sync=sync)
            for record, block in zip(both, rounds, strict=True):
                run.ratios[store.stem(record)][arm.id] = stats.block_log_ratio(block)


def _series(run: Run, comparison: Comparison, own: StoredRun) -> list[list[float]]:
    """The log-ratios of every certified contrast, one value a valid block."""
    passed = {one["arm"] for one in own.certificates if one["status"] in parity.MEASURED}
    valid = [record for record in schedule.latest(own.blocks) if schedule.valid(record)]
    rows = [run.ratios[store.stem(record)] for record in valid]
    return [[row[arm.id] for row in rows if arm.id in row] for _, arm in comparison.contrasts if arm.id in passed]


def _resolve_devices(matrix: Matrix) -> Matrix:
    """`auto` becomes what can be used here; a device that is absent is refused before anything starts."""
    asked = {arm.cell.device for one in matrix.comparisons for arm in one.arms}
    if asked == {"cpu"}:
        return matrix
    gpus = environment.cuda_devices()
    if "cuda" in asked and not gpus and environment.is_replayed():
        return _on_replay(matrix)
    if "cuda" in asked and not gpus:
        raise InputError("device cuda: no NVIDIA driver answers on this machine; choose --device cpu")
    return matrix.with_auto_device("cuda" if gpus else "cpu") if "auto" in asked else matrix


def _on_replay(matrix: Matrix) -> Matrix:
    """A stub runs beside a replayed GPU, its work on the processor; nothing else does, and `auto` is never that."""
    arms = [arm.cell for one in matrix.comparisons for arm in one.arms]
    if any(cell.framework.name != STUB for cell in arms if cell.device == "cuda"):
        raise InputError("device cuda: the GPU here is a replayed trace, which runs no framework; choose --device cpu")
    if "auto" in {cell.device for cell in arms}:
        raise InputError("device auto: the GPU here is a replayed trace, never chosen by itself; name cpu or cuda")
    return matrix


def _dataset(matrix: Matrix, view: View) -> data.DataSet | None:
    """MNIST, verified, where a workload reads it."""
    if any(certification.needs_data(one) for one in matrix.comparisons):
        return data.require(view.say)
    return None


def _note(run: Run, text: str) -> None:
    """Say it, and keep it among the run's notes: once."""
    if text not in run.noted:
        run.view.say(text)
        run.noted.add(text)
    if text not in run.header["notes"]:
        run.header["notes"].append(text)
        run.store.write_run(run.header)


@contextmanager
def _told_how_to_resume(folder: Path, view: View) -> Iterator[None]:
    """Whatever stops a run, be it an interrupt, a lost engine or a full disk: say that all is kept, and how to go on.

    raises  StorageFailed: a disk refused, anywhere in the block
    """
    try:
        with storage.told(folder):
            yield
    except (KeyboardInterrupt, EngineLost, StorageFailed, ProcessRefused):
        if (folder / "run.json").exists():
            view.say(f"stopped; every finished block is kept. To go on: bench run --resume {folder}")
        raise


def fresh_id() -> str:
    """The time of day and four digits of chance."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


@contextmanager
def compile_cache(run_id: str) -> Iterator[Path]:
    """Where compilers keep what they made, for every block of the run; gone when the run is over."""
    folder = paths.cache_root() / "compile" / run_id
    with storage.told(folder, remedy=paths.ANOTHER_CACHE):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with paths.held(folder):
            yield folder
    finally:
        with suppress(OSError):
            shutil.rmtree(folder)
