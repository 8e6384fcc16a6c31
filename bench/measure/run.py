"""The one loop: provide, certify, measure block after block, and keep each before the next begins."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench import launch, stats, storage, store
from bench import text as words
from bench.errors import EngineLost, InputError, ProcessRefused, StorageFailed
from bench.launch.cache import compile_cache, folder_of
from bench.launch.provide import provide_all
from bench.machine import cpus
from bench.matrix.matrix import Matrix
from bench.measure import certify, devices, kept_certificates, lockstep, outlook, provenance
from bench.measure.lockstep import Bench, Block
from bench.measure.provenance import fresh_id
from bench.measure.standing import fresh_ratios, stand
from bench.planning import schedule
from bench.planning.slices import Plan
from bench.provision import mnist
from bench.store import Store, StoredRun
from bench.telemetry import Sampler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from bench.launch import Launcher
    from bench.matrix.comparison import Comparison
    from bench.measure.prologue import Prologue
    from bench.measure.standing import Stand
    from bench.measure.view import View

BUDGET_SPENT = "the budget"
EVALUATION_SHARE = 0.08  # of the time that a comparison has
RESERVE_SHARE = 0.8  # of a budget, which blocks may fill: certificates, pilots and repeats take the rest


@dataclass
class Run:
    """A run under way: what is fixed, and what grows.

    ratios  d of every contrast by stem of its block, (arms,): read once, since a stored block never changes
    told    rounds of blocks at whose end it was said whether the time will do
    noted   what was said of this run's notes
    """

    store: Store
    header: dict[str, Any]
    matrix: Matrix
    launcher: Launcher
    view: View
    bench: Bench
    control_cpus: frozenset[int]
    terms: Mapping[str, Any]
    ratios: dict[str, dict[str, float]] = field(default_factory=dict)
    told: set[int] = field(default_factory=set)
    noted: set[str] = field(default_factory=set)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a run may be given instead of its prologues: a plan and certificates for every comparison.

    placement  where arms and harness run; None: chosen when it begins
    """

    plans: Mapping[str, Plan]
    certificates: Sequence[Mapping[str, Any]]
    placement: cpus.Placement | None = None


def new(
    matrix: Matrix, *, launchers: Sequence[str], out: Path, base: str | None, view: View,
    prepared: Prepared | None = None, recertify: bool = False,
) -> Path:  # fmt: skip
    """Begin a run and carry it to its end; returns its folder. Raises BenchError, KeyboardInterrupt.

    launchers  one, for every cell; or several, each for the cells that name it
    recertify  prove anew what was proved for an earlier run on the same terms
    """
    matrix = devices.resolved(matrix)
    store.refuse_unmakeable(out)  # before environments and images are made, which takes minutes
    cpus.refuse_too_many(_threads(matrix))
    run_id = f"{matrix.name}-{fresh_id()}"
    folder = out / run_id
    with ExitStack() as stack:
        cache = stack.enter_context(compile_cache(run_id))
        dataset = _dataset(matrix, view)
        place = launch.Place(run_id=run_id, cache=cache, data=dataset.folder if dataset else None, base=base)
        chosen, provisions = provide_all(launchers, matrix, place, view.say)
        stack.callback(chosen.close)
        if len(launchers) == 1 and any(cell.launcher != chosen.name for cell in matrix.cells):
            matrix = matrix.with_options(launcher=chosen.name)
        placement = (prepared and prepared.placement) or cpus.choose(_threads(matrix))
        header = provenance.header(place, matrix, chosen, provisions, dataset) | {"cpus": placement.to_json()}
        if few := schedule.too_few_blocks(matrix.budget, _family(matrix)):
            view.say(few)
            header["notes"].append(few)
        if recertify:
            header["recertify"] = True
        if prepared:
            header["plans"] = {name: plan.to_json() for name, plan in prepared.plans.items()}
        writer = Store.create(folder, header)
        stack.enter_context(writer.locked())
        for certificate in prepared.certificates if prepared else ():
            writer.append_certificate(certificate)
        with _told_how_to_resume(folder, view):
            _carry_on(writer, header, matrix, chosen, dataset, placement, view, terms=header)
    return folder


def resume(folder: Path, *, view: View, placement: cpus.Placement | None = None) -> Path:
    """Go on where a run stopped. Raises InputError where what it measured is no longer the same.

    placement  where arms and harness run; None: chosen anew
    """
    stored = store.read(folder)
    header = {key: value for key, value in stored.run.items() if key != "schema"}
    matrix = Matrix.from_resolved(header["matrix"])
    cpus.refuse_too_many(_threads(matrix))
    with ExitStack() as stack:
        writer = Store(folder)
        stack.enter_context(writer.locked())
        store.repair(folder)
        cache = stack.enter_context(compile_cache(header["id"]))
        dataset = _dataset(matrix, view)
        place = launch.Place(
            run_id=header["id"], cache=cache, data=dataset.folder if dataset else None, base=header["base"]
        )
        chosen, provisions = provide_all(matrix.launchers, matrix, place, view.say)
        stack.callback(chosen.close)
        now = provenance.header(place, matrix, chosen, provisions, dataset)
        provenance.refuse_changes(folder, header, now)
        placement = placement or cpus.choose(_threads(matrix))
        if not header["finished_at"]:
            _note_place(writer, header, placement)
        with _told_how_to_resume(folder, view):
            _carry_on(writer, header, matrix, chosen, dataset, placement, view, terms=now)
    return folder


def _carry_on(
    writer: Store,
    header: dict[str, Any],
    matrix: Matrix,
    launcher: Launcher,
    dataset: mnist.DataSet | None,
    placement: cpus.Placement,
    view: View,
    *,
    terms: Mapping[str, Any],
) -> None:
    """Measure until nothing is pending, from the harness's own processors.

    terms  the header as this machine would write it now: on which terms certificates are kept
    """
    with ExitStack() as stack:
        stack.enter_context(cpus.confined(placement.control))
        sampler = stack.enter_context(Sampler(writer.folder, matrix.telemetry.hz, placement.control))
        bench = Bench(
            launcher=launcher,
            sampler=sampler,
            arm_cpus=placement.arms,
            seed=matrix.seed,
            data=dataset.folder if dataset else None,
            schedule=matrix.schedule,
            soak_s=matrix.telemetry.soak_s,
            room_s=_room_s(matrix),
        )
        run = Run(writer, header, matrix, launcher, view, bench, placement.control, terms)
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
        run.ratios |= fresh_ratios(stored, run.matrix.comparisons, run.ratios)
        least = _least(run.matrix)
        standing = {one.id: stand(one, stored, run.ratios, budget=budget, least=least) for one in comparisons.values()}
        done = {name: one.finished for name, one in standing.items() if one.finished}
        run.view.stand(standing, done)
        due = schedule.pending(
            list(comparisons),
            stored.blocks,
            finished=done.keys(),
            seed=run.matrix.seed,
            least=None if budget.blocks else least,
            remaining_s={name: one.remaining_s for name, one in standing.items()},
        )
        if not due:
            return True
        left = {name: one.only(arm.id for arm in one.arms if arm.id not in standing[name].out)
                for name, one in comparisons.items()}  # fmt: skip
        unplanned = [planned for planned in due if planned.comparison not in run.header["plans"]]
        if unplanned and _in_time(run, _certify, unplanned, left, deadline, begun=bool(run.header["plans"])):
            continue
        if not unplanned:
            _tell_outlook(run, stored, standing, left_s=deadline - time.monotonic())
        planned = [one for one in due if one.comparison in run.header["plans"]]
        if not _in_time(run, _measure, planned, left, deadline, begun=bool(stored.blocks)) or unplanned:
            _note(run, f"{BUDGET_SPENT} of {budget.total_s:.0f} s was spent; bench run --resume measures on")
            return False


def _in_time(
    run: Run,
    step: Callable[[Run, Comparison, schedule.Planned], None],
    due: Sequence[schedule.Planned],
    left: Mapping[str, Comparison],
    deadline: float,
    *,
    begun: bool,
) -> bool:
    """One step after the other, as long as there is time; the first of a run however short its time is."""
    for planned in due:
        if time.monotonic() > deadline and begun:
            return False
        step(run, left[planned.comparison], planned)
        begun = True
    return True


def _measure(run: Run, comparison: Comparison, planned: schedule.Planned) -> None:
    """One block of the arms that are planned for."""
    plan = Plan.from_json(run.header["plans"][comparison.id])
    run.view.begin(planned)
    block = lockstep.measure_block(run.bench, comparison.only(plan.step_ns), planned, plan)
    _keep(run, block)
    _flush(run, store.stem(block.record()))


def _certify(run: Run, comparison: Comparison, planned: schedule.Planned) -> None:
    """Before a comparison's first block: certificates, evaluations, the pilot, and the plan that comes of it."""
    bench = run.bench
    began = time.monotonic()
    prologue = certify.begin(
        bench,
        comparison,
        cache=folder_of(run.header["id"]),
        control_cpus=run.control_cpus,
        view=run.view,
        known={} if run.header.get("recertify") else kept_certificates.of(run.terms, comparison),
        evaluate_s=EVALUATION_SHARE * _each_s(run.matrix),
    )
    _flush(run, f"{comparison.id}.prologue")  # whatever came of it: its readings are no block's
    if prologue.failed:
        block = Block(planned=planned, order=tuple(arm.id for arm in comparison.arms))
        block.fail(prologue.failed.arm, prologue.failed.failure)
        block.stop(prologue.failed.arm)
        _keep(run, block)
        return
    _keep_certificates(run, comparison, planned, prologue)
    if prologue.plan:  # after the certificates: a run killed in between certifies again, and the later line counts
        lasted_s = round(time.monotonic() - began, 3)
        run.header["plans"][comparison.id] = {**prologue.plan.to_json(), "prologue_s": lasted_s}
        run.store.write_run(run.header)


def _room_s(matrix: Matrix) -> float:
    """What a block may take, for all that are wanted to fit into the budget with a reserve."""
    budget = matrix.budget
    blocks = budget.blocks or min(budget.max_blocks, _least(matrix))
    return RESERVE_SHARE * _each_s(matrix) / blocks


def _each_s(matrix: Matrix) -> float:
    """What a comparison may take."""
    budget = matrix.budget
    return min(budget.total_s / len(matrix.comparisons), budget.per_comparison_s)


def _tell_outlook(run: Run, stored: StoredRun, standing: Mapping[str, Stand], *, left_s: float) -> None:
    """Before the first block, by the pilots, and after the first round, by its blocks: whether the time will do."""
    expected = outlook.expected(run.matrix.comparisons, standing, run.header["plans"], stored.blocks)
    rounds = min((one.blocks for one in expected), default=0)
    if rounds > 1 or rounds in run.told or not expected:
        return
    run.told.add(rounds)
    budget = run.matrix.budget
    short = outlook.shortfall(expected, budget, total_s=budget.total_s, left_s=left_s)
    run.view.say(short or outlook.expectation(expected, budget, least=_least(run.matrix)))


def _keep_certificates(run: Run, comparison: Comparison, planned: schedule.Planned, prologue: Prologue) -> None:
    """On disk, the logs of those that are left out first; then said."""
    where = {"comparison": comparison.id, "block": planned.block, "attempt": planned.attempt}
    logs = {name: run.store.write_log(where, name, failure.log) for name, failure in prologue.left_out.items()}
    arms = {arm.id: arm for arm in comparison.arms}
    for arm, certificate in prologue.certificates.items():
        sides = {"baseline": comparison.baseline, "arm": arm}
        evaluations = {name: prologue.evaluations[name] for name in sides.values() if name in prologue.evaluations}
        more = {"evaluations": evaluations, "log": logs.get(certificate.by or "", "")}
        record = {"comparison": comparison.id} | sides | certificate.to_json() | more
        run.store.append_certificate(record)
        kept_certificates.keep(run.terms, comparison, arms[arm], record)
        run.view.certified(comparison.id, arm, certificate)


def _keep(run: Run, block: Block) -> None:
    """On disk, logs of the failed first; then said."""
    record = block.record()
    for arm, outcome in block.outcomes.items():
        if outcome["status"] in ("failed", "unsupported"):
            outcome["log"] = run.store.write_log(record, arm, block.logs.get(arm, ""))
            run.view.failed(record, outcome, block.logs.get(arm, ""))
    run.store.append_block(record, block.samples)
    run.view.kept(record)


def _flush(run: Run, name: str) -> None:
    """Keep what the sampler read; where it has stopped, say so at once, and in the run's notes."""
    if sampler := run.bench.sampler:
        sampler.flush_block(name)
        if sampler.fault:
            _note(run, f"telemetry: {sampler.fault}")


def _least(matrix: Matrix) -> int:
    """Blocks that every comparison gets before any is given more than another."""
    return stats.k_min(_family(matrix))


def _family(matrix: Matrix) -> int:
    """Contrasts of a run, over which Holm corrects."""
    return sum(len(one.contrasts) for one in matrix.comparisons)


def _threads(matrix: Matrix) -> set[int]:
    return {arm.cell.threads for one in matrix.comparisons for arm in one.arms}


def _note_place(writer: Store, header: dict[str, Any], placement: cpus.Placement) -> None:
    """Where a resumed run goes on: another process may be on its processors now. Where it was, its blocks tell."""
    before, now = header["cpus"], placement.to_json()
    if before and before["arms"] != now["arms"]:
        moved = (f"{words.named(own['arms'][str(max(placement.arms))])}" for own in (before, now))
        header["notes"].append(f"resumed at {provenance.now()}: arms moved from {' to '.join(moved)}")
    header["cpus"] = now
    writer.write_run(header)


def _dataset(matrix: Matrix, view: View) -> mnist.DataSet | None:
    """MNIST, verified, where a workload reads it."""
    if any(one.needs_data for one in matrix.comparisons):
        return mnist.require(view.say)
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
            try:
                yield
            except InputError:  # its own run.json cannot be read any more
                (folder / "run.json").stat()
                raise
    except (KeyboardInterrupt, EngineLost, StorageFailed, ProcessRefused):
        if (folder / "run.json").exists():
            view.say(f"stopped; every finished block is kept. To go on: bench run --resume {folder}")
        raise
