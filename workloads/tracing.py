"""What a certificate is made from: steps traced on programs of the timed `build`, and on the timed program itself.

A worker answers here what was computed, not whether it is right: `bench.measure.parity` says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads.contract import Cell, Named, Unsupported, finite, pack
from workloads.distance import apart, farthest, largest, of_layers
from workloads.runtime import DTYPES, Array, Arrays, Program
from workloads.training.reference import STATISTICS
from workloads.trial import POOL_BATCHES, inputs, sha256

if TYPE_CHECKING:
    from workloads.trial import Trial

ULP = 2.0**-52  # of float64, relative
LEAST_STEPS = 10  # of a horizon that is looked for, however slow they are
# Of the timed precision. Its arithmetic rounds at every operation, so that it flips a rectifier or a maximum that one
# ulp in the weights leaves alone; and what one ulp leads to stays a tenth under a bound.
TIMED_ULP, TIMED_STEPS = 10.0, 5
NUDGES = 4  # of the timed precision: whether one flips anything is luck (docs/decisions/0018)
LEAST_CLOSING = 3  # steps: two updates and the one that is held to them
PIECE_BYTES = 2**26  # of an array that is too large for one answer


def parity(trial: Trial, *, steps: int, precision: str, rate: float = 1.0, unfetched: int = 0) -> dict[str, Any]:
    """Trace a fresh program, made by the `build` that is timed, in the same mode, at `precision`.

    rate       factor on the learning rate; below 1 the updates are told, without the gradients
    unfetched  so many steps another program takes too, no loss fetched but the last; tell how far they part

    returns  losses (steps,), gradients of batch 0 before the first step, weights after the last, or updates: weights
             after the last less those before the first; for infer: outputs of pool batches. Large arrays as `given`
    raises   Unsupported: the library cannot tell a loss that is held to the reference's
    """
    cell = at(trial.cell, precision, rate)
    weights, batches = inputs(trial.spec, cell, trial.seed, trial.data, POOL_BATCHES)
    program = trial.twin.build(cell=cell, weights=weights, batches=batches)
    told: dict[str, Any] = {"parameter_count": program.parameter_count, "inputs_sha256": sha256(weights, batches)}
    if cell.phase == "infer":
        return told | _given(trial, {"outputs": _outputs(program, steps)})
    gradients = {"gradients": program.gradients(0)} if rate == 1 else {}
    losses: list[float] = []
    for i in range(steps):
        if (precision == "fp64" or i < TIMED_STEPS) and (why := program.untold(i)):
            raise Unsupported(why)
        losses.append(float(program.fetch(program.step(i))))
        if i + 1 == unfetched:
            told["unfetched"] = _unfetched(trial, cell, unfetched, losses[i], program.weights())
    told["losses"] = [finite(loss) for loss in losses]
    return told | _given(trial, gradients | _weights_or_updates(program.weights(), weights, rate))


def horizon(trial: Trial, *, steps: int, rate: float, limit: float, most_s: float) -> dict[str, Any]:
    """The trace of a program in float64 for as many steps as a rounding error stays small in, `steps` at most.

    Another program starts with every weight off by one ulp. Their distance is normwise, of the weights or, where rate
    is below 1, of the updates: of all arrays the largest. An array that is back near zero is held to the largest that
    it was. The first step is traced whatever its distance. Where rate is 1, a third starts with every weight off by
    TIMED_ULP of the cell's own precision, which is what flips a rectifier: NUDGES times, of which the furthest counts.

    limit    the distance at which the horizon ends
    most_s   after these seconds and LEAST_STEPS steps it ends as well

    returns  as `parity`; sensitivity, which is how far one ulp leads: weights or updates (steps,), losses (steps,),
             gradients; for infer: outputs; timed: how far the third is led, losses (at most TIMED_STEPS,), gradients;
             scales: the largest that each array of the weights or updates was
    """
    began, cell = time.monotonic(), at(trial.cell, "fp64", rate)
    weights, batches = inputs(trial.spec, cell, trial.seed, trial.data, POOL_BATCHES)
    nudged = _nudged(trial, weights, ULP)
    one, other = (trial.twin.build(cell=cell, weights=start, batches=batches) for start in (weights, nudged))
    told = {"parameter_count": one.parameter_count, "inputs_sha256": sha256(weights, batches)}
    if cell.phase == "infer":
        outputs, beside = (_outputs(program, steps) for program in (one, other))
        led = {
            "outputs": farthest(beside, outputs),
            "timed": {"outputs": _led_at_once(trial, weights, batches, outputs)},
        }
        return told | {"sensitivity": led} | _given(trial, {"outputs": outputs})
    sensitivity: dict[str, Any] = {"weights": [], "losses": []}
    gradients: dict[str, Arrays] = {}
    if rate == 1:
        gradients["gradients"] = one.gradients(0)
        sensitivity["gradients"] = _gradients_apart(other.gradients(0), gradients["gradients"])
    losses: list[float] = []
    ends: Arrays = {}
    scales = {name: largest(array) if rate == 1 else 0.0 for name, array in weights.items()}
    for i in range(steps):
        loss, beside_loss = (float(program.fetch(program.step(i))) for program in (one, other))
        now, beside = one.weights(), other.weights()
        held, beside_held = (now, beside) if rate == 1 else (_less(now, weights), _less(beside, nudged))
        grown = {name: max(scales.get(name, 0.0), largest(array)) for name, array in held.items()}
        far = farthest(beside_held, held, grown)
        if i and not far < limit:
            break
        scales = grown
        losses.append(loss)
        sensitivity["losses"].append(finite(_apart(beside_loss, loss)))
        sensitivity["weights"].append(finite(far))
        ends = now
        if i + 1 >= LEAST_STEPS and time.monotonic() - began > most_s:
            break
    if rate == 1:
        sensitivity["timed"] = _led(trial, weights, batches, gradients["gradients"], losses[:TIMED_STEPS])
    told |= {"losses": [finite(loss) for loss in losses], "sensitivity": sensitivity}
    told["scales"] = {name: finite(scale) for name, scale in scales.items()}
    return told | _given(trial, gradients | _weights_or_updates(ends, weights, rate))


def closing(trial: Trial, *, steps: int, most_s: float) -> dict[str, Any]:
    """More steps of the timed program itself, each looked at: that the weights move, the last three as the rule says.

    No loss is fetched, as in a slice. Without momentum a step is −α g; with it (w₃ − w₂) = μ (w₂ − w₁) − α g₃; by Adam
    no weight goes further than α times what its β allow. g is of the weights before the last step, by the function that
    the step differentiates, in eager mode. An array need not move where its gradient is zero, or less than its float32
    can tell; by Adam, whose gradients of before count as well, it may stand for one step.

    most_s   no more than LEAST_CLOSING steps after these seconds

    returns  steps; idle: those after which no weight had moved, though some should have; still: arrays that should have
             moved in the last step and did not; error and place: how far the update is from the rule's, as a share of
             it, past rounding
    """
    if trial.cell.phase == "infer":
        return {"steps": 0, "idle": [], "still": [], "error": None, "place": None}
    began, program, rule = time.monotonic(), trial.program, trial.spec.optimizer(trial.cell.workload.mapping)
    older = old = now = program.weights()
    gradients: Arrays = {}
    idle: list[int] = []
    done = 0
    while done < steps:
        enough = time.monotonic() - began > most_s
        last, batch = done + 1 == steps or (enough and done + 1 >= LEAST_CLOSING), trial.position
        if last:
            gradients = program.gradients(batch, eager=True)
        trial.step()
        done += 1
        older, old, now = old, now, program.weights()
        if not _moved(old, now) and _by_the_rule(rule, older, old, now, program.gradients(batch, eager=True))[0]:
            idle.append(trial.position)
        if last:
            break
    still, error, place = _by_the_rule(rule, older, old, now, gradients)
    if rule.name == "adam":
        still = [name for name in still if (old[name] == older[name]).all()]
    return {"steps": done, "idle": idle, "still": still, "error": finite(error), "place": place}


def piece(trial: Trial, *, kind: str, name: str, start: int) -> dict[str, Any]:
    """PIECE_BYTES of an array of the last trace, flat, from element `start` on."""
    array = trial.held[kind][name].reshape(-1)
    return pack(array[start : start + PIECE_BYTES // array.itemsize])


def at(cell: Cell, precision: str, rate: float = 1.0) -> Cell:
    """The same cell at another precision and, where `rate` is not 1, at so many times its learning rate."""
    if rate == 1:
        return replace(cell, precision=precision)
    parameters = cell.workload.mapping
    slower = parameters | {"learning_rate": rate * float(parameters["learning_rate"])}  # type: ignore[arg-type]
    return replace(cell, precision=precision, workload=Named.of(cell.workload.name, slower))


def _gradients_apart(found: Arrays, truth: Arrays) -> float:
    return farthest(found, truth, of_layers(truth))


def _apart(a: float, b: float) -> float:
    return apart(np.asarray(a), np.asarray(b))


def _nudged(trial: Trial, weights: Arrays, size: float, number: int = 0) -> dict[str, Array]:
    """Every weight off by this share of itself, one way or the other; each number draws other ways."""
    draw = np.random.default_rng([trial.seed, number])
    return {
        name: array.astype(np.float64) * (1 + draw.choice((-size, size), array.shape))
        for name, array in weights.items()
    }


def _nudged_as_timed(trial: Trial, weights: Arrays, batches: Arrays, number: int) -> Program:
    cell, size = at(trial.cell, "fp64"), TIMED_ULP * float(np.finfo(DTYPES[trial.cell.precision]).eps)
    built: Program = trial.twin.build(cell=cell, weights=_nudged(trial, weights, size, number), batches=batches)
    return built


def _led(trial: Trial, weights: Arrays, batches: Arrays, gradients: Arrays, losses: Sequence[float]) -> dict[str, Any]:
    """How far TIMED_ULP of the timed precision lead from these gradients and losses, at most."""
    led, far = 0.0, [0.0] * len(losses)
    for number in range(NUDGES):
        program = _nudged_as_timed(trial, weights, batches, number)
        led = max(led, _gradients_apart(program.gradients(0), gradients))
        beside = (float(program.fetch(program.step(i))) for i in range(len(losses)))
        far = [max(known, _apart(a, b)) for known, a, b in zip(far, beside, losses, strict=True)]
    return {"gradients": finite(led), "losses": [finite(one) for one in far]}


def _led_at_once(trial: Trial, weights: Arrays, batches: Arrays, outputs: Arrays) -> float | None:
    """The same of an inference's outputs."""
    nudged = (_nudged_as_timed(trial, weights, batches, number) for number in range(NUDGES))
    return finite(max(farthest(_outputs(program, len(outputs)), outputs) for program in nudged))


def _outputs(program: Program, steps: int) -> dict[str, Array]:
    return {f"batch {i}": program.fetch(program.step(i)) for i in range(min(steps, POOL_BATCHES))}


def _less(ends: Arrays, starts: Arrays) -> dict[str, Array]:
    return {name: array - starts[name] for name, array in ends.items()}


def _weights_or_updates(ends: Arrays, starts: Arrays, rate: float) -> dict[str, Arrays]:
    return {"weights": ends} if rate == 1 else {"updates": _less(ends, starts)}


def _unfetched(trial: Trial, cell: Cell, steps: int, loss: float, ends: Arrays) -> dict[str, Any]:
    """As a slice steps: nothing is fetched before the last loss."""
    weights, batches = inputs(trial.spec, cell, trial.seed, trial.data, POOL_BATCHES)
    program: Program = trial.twin.build(cell=cell, weights=weights, batches=batches)
    for i in range(steps):
        output = program.step(i)
    gaps = {"the loss": _apart(float(program.fetch(output)), loss)}
    found, scales = program.weights(), of_layers(ends)
    gaps |= {name: apart(array, ends[name], scales[name]) for name, array in found.items()}
    place = max(gaps, key=lambda name: gaps[name])
    return {"value": finite(gaps[place]), "place": place}


def _moved(before: Arrays, after: Arrays) -> bool:
    return any((array != before[name]).any() for name, array in after.items() if not name.endswith(STATISTICS))


def _by_the_rule(
    rule: Any, older: Arrays, old: Arrays, now: Arrays, gradients: Arrays
) -> tuple[list[str], float, str | None]:
    """Arrays that should have moved and did not; the largest departure from the rule, and where.

    A departure is a share of the update that the rule gives, past the rounding of a weight; infinite of what is not
    finite, and of an array that moved and should not have.
    """
    still: list[str] = []
    error, where = 0.0, None
    for name, gradient in gradients.items():
        before, after = old[name].astype(np.float64), now[name].astype(np.float64)
        rounding = 4 * float(np.finfo(np.float32).eps) * float(np.max(np.abs(after), initial=0.0))
        if rule.name == "adam":
            must, scale, gap = _adam(rule, gradient, after - before)
        else:
            must, gap = _descent(rule, gradient, before - older[name].astype(np.float64), after - before)
            scale = must
        if must > rounding and not (after != before).any():
            still.append(name)
        departure = 0.0 if gap <= rounding else (gap - rounding) / scale if scale and np.isfinite(gap) else np.inf
        if departure > error:
            error, where = departure, name
    return still, error, where


def _descent(rule: Any, gradient: Array, last: Array, update: Array) -> tuple[float, float]:
    """The longest way that the rule gives, after an update that was `last`; how far this update is from it."""
    momentum = rule.momentum if rule.name == "sgd" else 0.0
    expected = momentum * last - rule.learning_rate * gradient
    return float(np.max(np.abs(expected), initial=0.0)), float(np.max(np.abs(update - expected), initial=0.0))


def _adam(rule: Any, gradient: Array, update: Array) -> tuple[float, float, float]:
    """How far it must go, which is 0 where the gradient is nothing; the longest way that it may; how far it is past it.

    The moments m = (1 − β₁) Σ β₁ⁱ g and v = (1 − β₂) Σ β₂ⁱ g² are of the same gradients, so that by Cauchy and Schwarz
    |m| ≤ (1 − β₁) √(v / ((1 − β₂) (1 − β₁² / β₂))), of whatever gradients; what corrects their start makes it less.
    """
    most = (1 - rule.beta1) / ((1 - rule.beta2) * (1 - rule.beta1**2 / rule.beta2)) ** 0.5
    longest = rule.learning_rate * max(1.0, most)
    must = longest if float(np.max(np.abs(gradient), initial=0.0)) > rule.epsilon else 0.0
    if not np.isfinite(gradient).all():
        return must, longest, np.inf
    return must, longest, float(np.max(np.abs(update), initial=0.0)) - longest


def _given(trial: Trial, groups: Mapping[str, Arrays]) -> dict[str, Any]:
    """The arrays as an answer has them: packed, or where together they are too large for one, by their shapes alone.

    Then they are held until the next trace, and `piece` gives them.
    """
    trial.held = {}
    if sum(array.nbytes for arrays in groups.values() for array in arrays.values()) <= PIECE_BYTES:
        return {group: {name: pack(array) for name, array in arrays.items()} for group, arrays in groups.items()}
    trial.held = {group: dict(arrays) for group, arrays in groups.items()}
    shapes = {
        group: {name: {"dtype": array.dtype.name, "shape": list(array.shape)} for name, array in arrays.items()}
        for group, arrays in groups.items()
    }
    return {"pieces": shapes}
