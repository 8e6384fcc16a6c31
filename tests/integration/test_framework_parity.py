"""Every framework against the NumPy reference: what is right is certified, and every mutation is seen.

The real environments compute. Where many trees are traced, one process a framework does it (`trace_many.py`); what a
user runs, `bench parity` with workers of its own, is run over a whole broken tree, and over the healthy one.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mutations import BASE, FURTHER, MUTATIONS, Mutation, rounds

from bench import frameworks
from bench.matrix.model import spec_of
from bench.measure.parity import STEPS, Certificate, certify, left_out
from bench.measure.traces import Side, Trace
from bench.provision import mnist
from bench.provision.venv import environment
from workloads.contract import Cell, Named

pytestmark = pytest.mark.framework

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
MUCH_BETTER_THAN_THE_BOUND = 1e-12
BATCH_SIZE = 8
FEW_STEPS = 8  # a mutation shows at once; `bench parity` takes all
LIMIT_S = 60.0  # a question, on a busy machine
QUICK = ("logistic_regression", "svm", "mnist_mlp", "ncf", "conv1d_audio")  # broken together, where not all rounds are
EVERY_ROUND = "BENCH_ALL_MUTATIONS"  # `nox -s mutations`: each mutation by `bench parity`, half an hour

# Of the further sizes one in sixteen, where not all are asked for.
TOLD = MUTATIONS if os.environ.get(EVERY_ROUND) else (*MUTATIONS[: -len(FURTHER)], *FURTHER[::16])

Traces = dict[str, Any]


def cell(workload: str, framework: str, *, phase: str = "train", mode: str = "eager", **parameters: Any) -> Cell:
    spec = spec_of(workload)
    given = spec.parameters(parameters)
    # scikit-learn's support vector machine learns one example a step.
    size = 1 if (workload, framework) == ("svm", "sklearn") else BATCH_SIZE
    return Cell(
        workload=Named.of(workload, given), framework=Named(framework), phase=phase, mode=mode,
        batch_size=spec.batch_size(given, size), device="cpu",
    )  # fmt: skip


def question(
    name: str, one: Cell, root: Path = REPOSITORY, *, steps: int = FEW_STEPS, closing: int = 3
) -> dict[str, Any]:
    return {
        "name": name, "root": str(root), "cell": one.to_json(), "steps": steps,
        "data": str(mnist.require(print).folder), "closing": closing if one.phase == "train" else 0,
    }  # fmt: skip


def traced(framework: str, questions: Sequence[dict[str, Any]]) -> Traces:
    """One process answers all."""
    python = Path(sys.executable) if framework == "reference" else environment(
        framework=framework, progress=print
    ).python  # fmt: skip
    done = subprocess.run(
        [python, HERE / "trace_many.py", framework], input=json.dumps(questions).encode(), capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}, check=False,
        timeout=LIMIT_S * len(questions),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return dict(pickle.loads(done.stdout))


def side(arm: str, traces: Any) -> Side:
    return Side(
        arm=arm, float64=Trace.of(traces["fp64"]), timed=Trace.of(traces["fp32"]), closing=traces.get("closing")
    )


@pytest.fixture(scope="module")
def mutants(source_tree: Callable[[], Path], edit: Any) -> dict[str, Any]:
    """Every framework's answers: of each mutation by its name, and of each healthy workload by the workload's."""
    questions: dict[str, list[dict[str, Any]]] = {name: [] for name in (*frameworks.defaults(), "sklearn", "reference")}
    for healthy in {one.healthy: one for one in TOLD}.values():
        for framework in ("reference", *frameworks.defaults()):
            name = framework if framework in frameworks.defaults() else "tensorflow"
            one = cell(healthy.workload, name, phase=healthy.phase, **dict(healthy.given))
            questions[framework].append(question(healthy.healthy, one))
    for name, more in ALSO.items():
        for framework in more["arms"]:
            questions[framework].append(question(name, cell(more["workload"], framework, **more["given"]), steps=STEPS))
        questions["reference"].append(
            question(name, cell(more["workload"], more["arms"][-1], **more["given"]), steps=STEPS)
        )
    for mutation in TOLD:
        tree = source_tree()
        tree = tree.rename(tree.with_name(f"{tree.name}-tree"))
        for old, new in mutation.edits:
            edit(tree / mutation.path, old, new)
        one = cell(mutation.workload, mutation.framework, phase=mutation.phase, **dict(mutation.given))
        questions[mutation.framework].append(question(str(mutation), one, tree, closing=mutation.closing))
    with ThreadPoolExecutor() as pool:
        answers = {name: pool.submit(traced, name, asked) for name, asked in questions.items()}
        return {name: answer.result() for name, answer in answers.items()}


# Further healthy arms: gradient descent, and scikit-learn.
ALSO: dict[str, dict[str, Any]] = {
    **{f"{name}, gradient descent": {"workload": name, "arms": arms,
                                     "given": {"optimizer": "gradient_descent", "n": 100, "d": 4}}
       for name, arms in (("linear_regression", ("tensorflow", "pytorch", "sklearn")),
                          ("logistic_regression", ("tensorflow", "pytorch", "sklearn")),
                          ("svm", ("tensorflow", "pytorch")))},
    **{f"{name}, scikit-learn": {"workload": name, "arms": ("sklearn",), "given": {}}
       for name in ("linear_regression", "logistic_regression", "svm")},
    **{f"{name}, scikit-learn, inference": {"workload": name, "arms": ("sklearn",), "given": {"phase": "infer"}}
       for name in ("linear_regression", "logistic_regression", "svm")},
}  # fmt: skip


@pytest.mark.parametrize("name", ALSO)
def test_gradient_descent_and_scikit_learn_do_the_reference_s_work_to_rounding(
    mutants: dict[str, Traces], name: str
) -> None:
    reference = Trace.of(mutants["reference"][name]["fp64"])
    sides = [side(arm, mutants[arm][name]) for arm in ALSO[name]["arms"]]
    for arm in sides:
        certificate = certify(reference=reference, baseline=sides[0], arm=arm, precision="fp32")
        assert certificate.status == "passed", certificate.reason
        assert certificate.max_rel_error is not None
        assert certificate.max_rel_error < MUCH_BETTER_THAN_THE_BOUND


# Trained by all examples, against scikit-learn's exact solver: relative errors of loss and weights, normwise.
# A support vector machine has kinks: a constant step circles its optimum at a distance of the order of α.
SOLVED = {
    "linear_regression": ({"n": 512, "d": 16, "evaluate_steps": 500}, 1e-6, 1e-5),
    "logistic_regression": ({"n": 512, "d": 16, "evaluate_steps": 2000, "noise": 8.0}, 1e-6, 1e-4),
    "svm": ({"n": 512, "d": 16, "c": 0.02, "evaluate_steps": 3000}, 1e-4, 1e-2),
}


@pytest.fixture(scope="module")
def solved() -> dict[str, Traces]:
    """What an evaluation says, by framework and workload; a fold left out now and then as well."""
    questions: dict[str, list[dict[str, Any]]] = {name: [] for name in (*frameworks.defaults(), "sklearn")}
    for framework, asked in questions.items():
        for name, (given, *_) in SOLVED.items():
            optimizer = "sgd" if (name, framework) == ("svm", "sklearn") else "gradient_descent"
            one = cell(name, framework, optimizer=optimizer, **given)
            asked.append(question(name, one) | {"evaluate": given["evaluate_steps"]})
        folded = cell("logistic_regression", framework, optimizer="gradient_descent", n=60, d=3, folds=4)
        asked.append(question("folds", folded) | {"evaluate": 400})
    with ThreadPoolExecutor() as pool:
        answers = {name: pool.submit(traced, name, asked) for name, asked in questions.items()}
        return {name: answer.result() for name, answer in answers.items()}


@pytest.mark.parametrize("framework", frameworks.defaults())
@pytest.mark.parametrize("workload", SOLVED)
def test_gradient_descent_comes_to_what_scikit_learn_solves(
    solved: dict[str, Traces], workload: str, framework: str
) -> None:
    _, loss, weights = SOLVED[workload]
    ours, exact = solved[framework][workload], solved["sklearn"][workload]
    assert exact["steps"] is None
    assert exact["solver"]
    assert ours["loss"] == pytest.approx(exact["loss"], rel=loss)
    largest = max(map(abs, exact["weights"]))
    assert ours["weights"] == pytest.approx(exact["weights"], abs=weights * largest)
    assert ours["bias"] == pytest.approx(exact["bias"], abs=weights * largest)


def test_cross_validation_holds_out_the_same_examples_in_every_framework(solved: dict[str, Traces]) -> None:
    found = {name: answers["folds"]["cross_validation"] for name, answers in solved.items()}
    assert {one["folds"] for one in found.values()} == {4}
    assert found["tensorflow"]["scores"] == found["pytorch"]["scores"]
    for mine, exact in zip(found["tensorflow"]["scores"], found["sklearn"]["scores"], strict=True):
        assert mine == pytest.approx(exact, abs=2 / 15), "of fifteen held out, those beside the border may differ"


def certified(mutants: dict[str, Traces], mutation: Mutation) -> Certificate:
    """The broken side against the healthy other one; scikit-learn against itself."""
    answer = mutants[mutation.framework][str(mutation)]
    if isinstance(answer, str):  # as bench.measure.certify does with a worker that raised
        return left_out(mutation.framework, f"{mutation.framework}: {answer}", unsupported=False)
    both = mutation.framework in frameworks.defaults()
    key = mutation.healthy if both else f"{mutation.workload}, scikit-learn"
    broken = side(mutation.framework, answer)
    sides = {name: side(name, mutants[name][key]) for name in frameworks.defaults()} if both else {}
    sides[mutation.framework] = broken
    baseline, arm = next(iter(sides.values())), list(sides.values())[-1]
    return certify(
        reference=Trace.of(mutants["reference"][key]["fp64"]), baseline=baseline, arm=arm, precision="fp32",
        rtol=getattr(spec_of(mutation.workload), "FP32_RTOL", None),
    )  # fmt: skip


@pytest.mark.parametrize("mutation", TOLD, ids=str)
def test_a_mutation_fails_the_certificate_which_names_arm_and_cause(
    mutants: dict[str, Traces], mutation: Mutation
) -> None:
    certificate = certified(mutants, mutation)
    assert certificate.status == ("broken" if certificate.by else "failed")
    colon = "" if mutation.cause.startswith(("has ", "leaves ")) else ":"
    assert certificate.reason.startswith(f"{mutation.framework}{colon} {mutation.cause}"), certificate.reason
    # The gap between the arms is booked on the arm, whichever side is broken.
    blamed = {check.arm for check in certificate.checks if not check.passed and check.name != "timed losses"}
    assert blamed <= {mutation.framework}


def test_every_workload_is_broken_in_each_of_the_common_ways() -> None:
    for kind in ("reduction", "initialisation", "dropped bias", "shuffled batch"):
        assert len({one.workload for one in MUTATIONS if one.kind == kind}) == 10


# What a user runs


def bench_parity(root: Path, cache: Path | None, *options: str) -> tuple[int, list[dict[str, Any]]]:
    more = {"BENCH_CACHE": str(cache)} if cache else {}
    done = subprocess.run(
        [sys.executable, "-m", "bench", "parity", "--format", "json", *options], cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), **more}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("number", range(len(rounds()) if os.environ.get(EVERY_ROUND) else 1))
@pytest.mark.first
def test_bench_parity_over_a_broken_tree_exits_3_and_names_every_arm_and_cause(
    source_tree: Callable[[], Path], edit: Any, borrowed_cache: Path, number: int
) -> None:
    told = rounds()[number] if os.environ.get(EVERY_ROUND) else [one for one in rounds()[0] if one.workload in QUICK]
    tree, broken = source_tree(), {one.workload: one for one in told}
    for mutation in broken.values():
        for old, new in mutation.edits:
            edit(tree / mutation.path, old, new)
    (phase,) = {mutation.phase for mutation in broken.values()}
    code, records = bench_parity(tree, borrowed_cache, "--launcher", "local", "--phase", phase, *broken)
    assert code == 3
    by_arm = {(record["comparison"], record["arm"]): record for record in records}
    for name, mutation in broken.items():
        alone = "-b1" if (name, mutation.framework) == ("svm", "sklearn") else ""
        arm = mutation.framework if mutation.framework == "sklearn" else "pytorch"
        record = by_arm[f"{name}-{phase}{alone}", arm]
        assert record["status"] == ("broken" if record["by"] else "failed")
        colon = "" if mutation.cause.startswith("has ") else ":"
        assert record["reason"].startswith(f"{mutation.framework}{colon} {mutation.cause}"), record["reason"]


def test_every_mutation_is_in_a_round_and_none_twice() -> None:
    told = [mutation for one in rounds() for mutation in one]
    assert sorted(map(str, told)) == sorted(str(mutation) for mutation in BASE if not mutation.late)


@pytest.mark.docker
def test_bench_parity_over_everything_passes() -> None:
    code, records = bench_parity(REPOSITORY, None)
    assert code == 0, [record["reason"] for record in records if record["reason"]]
    names = [f"{w}-{p}" for w in {mutation.workload for mutation in MUTATIONS} for p in ("train", "infer")]
    linear = ("linear_regression", "logistic_regression", "svm")
    names += [f"{w}-train-gradient_descent" for w in linear]
    wanted = {(name, arm) for name in names for arm in ("pytorch", "numpy")}
    wanted |= {(f"{w}-infer", "sklearn") for w in linear} | {(f"{w}-train", "sklearn") for w in linear[:2]}
    wanted |= {(f"{w}-train-gradient_descent", "sklearn") for w in linear[:2]} | {("svm-train-b1", "sklearn")}
    assert {(record["comparison"], record["arm"]) for record in records} == wanted
    for record in records:
        assert record["max_rel_error"] < MUCH_BETTER_THAN_THE_BOUND
