"""Traces of many trees by one process, which imports its framework once. Runs in the framework's own environment.

    python trace_many.py FRAMEWORK < questions.json > answers.pickle

in      a list of {name, root, cell, data} with steps of a trace, or with the steps to evaluate after; of a training
        `closing` steps that are looked at after UNSEEN that are not
out     a dictionary by name

An answer is what a worker's `parity` gives at both precisions, and `closing`, or the text of the error. The trees are
copies of the workloads' package; each question gets its modules anew from its own.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import traceback
from contextlib import suppress
from typing import Any

UNSEEN, UNFETCHED = 64, 10


def main() -> None:
    framework, questions = sys.argv[1], json.load(sys.stdin)
    private = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a framework's chatter is no answer
    configured = False
    answers: dict[str, Any] = {}
    for question in questions:
        for name in [name for name in sys.modules if name.partition(".")[0] == "workloads"]:
            del sys.modules[name]
        sys.path[:] = [question["root"], *(path for path in sys.path if not path.endswith("-tree"))]
        answers[question["name"]] = _traced(framework, question, configured)
        configured = True
    private.write(pickle.dumps(answers))
    private.close()


def _traced(framework: str, question: dict[str, Any], configured: bool) -> Any:
    import importlib

    if configured and framework != "reference":  # threads can be set once in a process
        importlib.import_module(f"workloads.runtime.{framework}").configure = lambda cell: None  # type: ignore[attr-defined]
    from workloads import tracing
    from workloads.trial import Trial

    precisions = ("fp64",) if framework == "reference" else ("fp64", "fp32")
    unfetched = UNFETCHED if question["cell"]["phase"] == "train" else 0
    try:
        trial, _ = Trial.open(cell=question["cell"], framework=framework, seed=0, data=question["data"])
        if "evaluate" in question:
            return trial.evaluate(steps=question["evaluate"])
        found = {
            precision: tracing.parity(
                trial,
                steps=max(question["steps"], unfetched) if precision == "fp32" else question["steps"],
                precision=precision,
                unfetched=unfetched if precision == "fp32" else 0,
            )
            for precision in precisions
        }
        if question.get("closing") and framework != "reference":
            with suppress(ArithmeticError):  # it ran away: then its traces are wrong already
                trial.measure(steps=UNSEEN, settle=0, sync="slice")
                found["closing"] = tracing.closing(trial, steps=question["closing"], most_s=60.0)
        return found
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
