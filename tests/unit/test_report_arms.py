"""Reports of more than two arms: one that fails takes nobody with it; confounders; names."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from reported import TRAIN, contrast, formats, only, shown
from synthetic_run import COMPARISONS, Writer, block, cell, outcome, steps

from bench.estimate import names as naming
from bench.estimate import summary
from bench.report import markdown, rows

# --- one arm of three fails: it takes nobody with it

GRAPH, THREE = "tensorflow-graph", {"tensorflow": 31e6, "tensorflow-graph": 24e6, "pytorch": 30e6}


def three_arms(folder: Path) -> Writer:
    run = only(TRAIN)
    arms = {arm: cell({"name": "mnist_cnn"}, arm.partition("-")[0]) for arm in THREE}
    arms[GRAPH]["mode"] = "graph"
    run["comparisons"][TRAIN] |= {"compare": ["framework", "mode"], "arms": arms}
    return Writer(folder, run)


def of_arm(document: dict[str, Any], arm: str) -> dict[str, Any]:
    return next(one for one in document["contrasts"] if one["arm"] == f"{TRAIN}/{arm}")


def measured_without(writer: Writer, arm: str | None = None, count: int = 8) -> Writer:
    times = {name: time for name, time in THREE.items() if name != arm}
    for number in range(count):
        writer.add(block(TRAIN, number, {name: outcome(name) for name in times}), steps(times, number))
    return writer


@pytest.mark.parametrize(
    ("status", "word", "code"), [("unsupported", "unsupported", 0), ("broken", "failed", 3)]
)  # fmt: skip
def test_an_arm_that_was_left_out_says_why_and_the_others_keep_their_ratio(
    tmp_path: Path, status: str, word: str, code: int
) -> None:
    writer = three_arms(tmp_path / "run").certified(TRAIN, arm=GRAPH, evaluations={})
    out = {"status": status, "by": "pytorch", "reason": "pytorch: it needs a C++ compiler", "log": "logs/a.log"}
    document = summary.summarise(measured_without(writer.certified(TRAIN, **out), "pytorch").read())
    well, left = of_arm(document, GRAPH), of_arm(document, "pytorch")
    assert (well["verdict"], well["blocks"]) == ("faster", 8)
    assert (left["verdict"], left["ratio"], left["blocks"]) == (word, None, 0)
    assert left["reason"] == "PyTorch eager: it needs a C++ compiler", "not parity failed"
    assert left["parity"]["status"] == "skipped"
    assert summary.exit_code(document) == code
    for name, text in formats(document).items():
        assert "it needs a C++ compiler" in " ".join(text.split()), name
    told = [line for line in rows.failures(document) if "before the first block" in line]
    assert bool(told) is (code == 3)
    assert all("logs/a.log" in line for line in told)


@pytest.mark.parametrize(
    ("by", "named"), [("reference", "the reference: "), ("tensorflow", "TF eager: ")]
)  # fmt: skip
@pytest.mark.parametrize(("status", "word"), [("unsupported", "unsupported"), ("broken", "failed")])
def test_a_reference_or_a_baseline_that_cannot_answer_keeps_its_reason_in_every_contrast(
    tmp_path: Path, by: str, named: str, status: str, word: str
) -> None:
    writer = three_arms(tmp_path / "run")
    for arm in (GRAPH, "pytorch"):
        writer.certified(TRAIN, arm=arm, status=status, by=by, reason=f"{by}: an answer of 646 MiB", evaluations={})
    document = summary.summarise(writer.read())
    told = [(one["verdict"], one["reason"], one["ratio"]) for one in document["contrasts"]]
    assert told == [(word, f"{named}an answer of 646 MiB", None)] * 2
    assert len(document["failures"]) == (word == "failed"), "once, not once a contrast"


def test_a_reference_that_dies_before_every_block_is_the_reason_of_a_failed_contrast(tmp_path: Path) -> None:
    writer = three_arms(tmp_path / "run")
    for number in range(3):
        arms = {arm: outcome(arm, status="stopped", reason="stopped because reference failed") for arm in THREE}
        arms["reference"] = outcome("reference", status="failed", kind="oom", reason="reference: was killed")
        writer.add(block(TRAIN, number, arms))
    document = summary.summarise(writer.read())
    assert {(one["verdict"], one["reason"]) for one in document["contrasts"]} == {
        ("failed", "the reference: was killed")
    }


def test_a_block_counts_for_the_contrasts_whose_arms_it_measured(tmp_path: Path) -> None:
    writer = three_arms(tmp_path / "run").certified(TRAIN, arm=GRAPH, evaluations={}).certified(TRAIN)
    dead = outcome("pytorch", status="failed", kind="crashed", reason="pytorch: exit 139", log="logs/a.log")
    for number in range(8):
        arms = {arm: outcome(arm) for arm in THREE} | ({"pytorch": dead} if number < 3 else {})
        writer.add(block(TRAIN, number, arms), steps(THREE, number))
    document = summary.summarise(writer.read())
    assert [of_arm(document, arm)["blocks"] for arm in (GRAPH, "pytorch")] == [8, 5]
    assert [cell["blocks"] for cell in document["cells"]] == [8, 8, 5]
    assert {one["verdict"] for one in document["contrasts"]} <= {"faster", "slower", "equivalent", "inconclusive"}
    assert summary.exit_code(document) == 3


def test_an_arm_that_failed_in_every_block_is_failed_by_its_own_reason_and_no_other_is(tmp_path: Path) -> None:
    writer = three_arms(tmp_path / "run").certified(TRAIN, arm=GRAPH, evaluations={}).certified(TRAIN)
    dead = outcome("pytorch", status="failed", kind="crashed", reason="pytorch: exit 139", log="logs/a.log")
    writer.add(block(TRAIN, 0, {arm: outcome(arm) for arm in THREE} | {"pytorch": dead}), steps(THREE, 0))
    document = summary.summarise(writer.read())
    assert (of_arm(document, "pytorch")["verdict"], of_arm(document, "pytorch")["ratio"]) == ("failed", None)
    assert of_arm(document, GRAPH)["verdict"] == "inconclusive"
    assert of_arm(document, GRAPH)["blocks"] == 1


def test_an_arm_that_was_only_stopped_is_not_measured_and_neither_failed_nor_invalid(tmp_path: Path) -> None:
    dead = outcome("pytorch", status="failed", kind="crashed", reason="pytorch: exit 139", log="logs/a.log")
    stopped = {"status": "stopped", "reason": "stopped because pytorch failed"}
    arms = {"tensorflow": stopped, GRAPH: stopped, "pytorch": dead}
    document = summary.summarise(three_arms(tmp_path / "run").add(block(TRAIN, 0, arms)).read())
    assert of_arm(document, GRAPH)["verdict"] == "inconclusive"
    assert of_arm(document, GRAPH)["reason"] == "not measured: stopped because pytorch failed"
    assert of_arm(document, "pytorch")["verdict"] == "failed"


# --- four arms, confounders, names


def four_arms(tmp_path: Path) -> dict[str, Any]:
    run = only(TRAIN)
    times = {"tf-eager": 31e6, "tf-graph": 24e6, "pt-eager": 30e6, "pt-compiled": 22e6}
    names = {"tf": "tensorflow", "pt": "pytorch"}
    arms = {arm: cell({"name": "mnist_cnn"}, names[arm[:2]], mode=arm[3:]) for arm in times}
    run["comparisons"][TRAIN] |= {"compare": ["framework", "mode"], "baseline": "tf-eager", "arms": arms}
    writer = Writer(tmp_path / "run", run)
    for arm in list(times)[1:]:
        writer.certified(TRAIN, arm=arm)
    for number in range(8):
        writer.add(block(TRAIN, number, {arm: outcome(arm) for arm in times}), steps(times, number))
    return summary.summarise(writer.read())


def test_four_arms_are_three_contrasts_of_one_comparison(tmp_path: Path) -> None:
    document = four_arms(tmp_path)
    assert [one["arm"].rpartition("/")[2] for one in document["contrasts"]] == ["tf-graph", "pt-eager", "pt-compiled"]
    assert [one["label"] for one in document["cells"]] == ["TF eager", "TF graph", "PyTorch eager", "PyTorch compiled"]
    assert contrast(document)["p_holm"] <= 3 * contrast(document)["p"]
    for text in (shown(document, 120), shown(document, 80), markdown.render(document)):
        assert "PyTorch compiled" in " ".join(text.split())
        assert "above 1 the arm is faster" in " ".join(text.split())


def test_what_differs_beside_the_compared_axes_is_named(tmp_path: Path) -> None:
    run = only(TRAIN)
    run["comparisons"][TRAIN]["arms"]["pytorch"]["threads"] = 2
    run["images"]["pytorch"]["base"] = "sha256:another"
    writer = Writer(tmp_path / "run", run).certified(TRAIN)
    arms = {
        "tensorflow": outcome("tensorflow", effective={"onednn": True, "devices": ["CPU:0"]}),
        "pytorch": outcome("pytorch", effective={"onednn": False, "devices": ["cpu"]}),
    }
    for number in range(8):
        writer.add(block(TRAIN, number, copy.deepcopy(arms)), steps(COMPARISONS[TRAIN][2], number))
    document = summary.summarise(writer.read())
    assert contrast(document)["confounders"] == [
        "threads: 1 against 2",
        "effective onednn: True against False",
        "images with different bases",
    ]
    for name, text in formats(document).items():
        assert "effective onednn" in " ".join(text.split()), name


def between(tmp_path: Path, axis: str, values: tuple[Any, Any], *effective: dict[str, Any]) -> list[str]:
    """The confounders of two arms of one framework that are compared on this axis."""
    run = only(TRAIN)
    arms = {
        name: cell({"name": "mnist_cnn"}, "pytorch", **{axis: value}) for name, value in zip("ab", values, strict=True)
    }
    run["comparisons"][TRAIN] |= {"compare": [axis], "baseline": "a", "arms": arms}
    writer = Writer(tmp_path / "run", run).certified(TRAIN, arm="b")
    outcomes = {arm: outcome("pytorch", effective=own) for arm, own in zip(arms, effective, strict=True)}
    for number in range(8):
        writer.add(block(TRAIN, number, copy.deepcopy(outcomes)), steps({"a": 31e6, "b": 20e6}, number))
    return list(contrast(summary.summarise(writer.read()))["confounders"])


@pytest.mark.parametrize(
    ("axis", "values", "left", "right"),
    [
        (
            "threads", (1, 2),
            {"intra_op_threads": 1, "inter_op_threads": 1, "cpus": [3]},
            {"intra_op_threads": 2, "inter_op_threads": 2, "cpus": [2, 3]},
        ),
        ("device", ("cpu", "cuda"), {"build_cuda": False, "tf32": False}, {"build_cuda": True, "tf32": True}),
        ("precision", ("fp32", "tf32"), {"tf32": False}, {"tf32": True}),
        ("launcher", ("local", "docker"), {"uid": 1000}, {"uid": 65534}),
    ],
)  # fmt: skip
@pytest.mark.second
def test_what_is_compared_is_no_confounder_nor_is_what_follows_from_it(
    tmp_path: Path, axis: str, values: tuple[Any, Any], left: dict[str, Any], right: dict[str, Any]
) -> None:
    assert between(tmp_path / "followed", axis, values, left, right) == []
    found = between(tmp_path / "beside", axis, values, left | {"onednn": True}, right | {"onednn": False})
    assert found == ["effective onednn: True against False"]


def test_threads_that_are_not_those_that_were_asked_for_are_a_confounder(tmp_path: Path) -> None:
    sides = {"intra_op_threads": 1}, {"intra_op_threads": 4}
    assert between(tmp_path, "threads", (1, 2), *sides) == ["effective intra_op_threads: 1 against 4"]


def test_the_arms_processors_stand_in_every_report(tmp_path: Path) -> None:
    run = only(TRAIN)
    run["cpus"] |= {"arms": {"1": [3], "2": [2, 3], "12": list(range(12))}, "control": [0, 1, 14]}
    document = summary.summarise(Writer(tmp_path / "run", run).read())
    assert document["run"]["cpus"] == run["cpus"]
    told = "arms of 1 thread on CPU 3, of 2 threads on CPUs 2-3, of 12 threads on CPUs 0-11; harness on CPUs 0-1,14;"
    assert told in " ".join(shown(document, 120).split())
    assert told in markdown.render(document)
    del run["cpus"]
    older = summary.summarise(Writer(tmp_path / "older", run).read())
    assert older["run"]["cpus"] is None
    assert "harness on" not in shown(older, 120)


def test_equal_arms_have_no_confounders(document: dict[str, Any]) -> None:
    assert all(one["confounders"] == [] for one in document["contrasts"])


def test_workloads_are_told_apart_by_as_little_as_it_takes() -> None:
    def of(**parameters: Any) -> dict[str, Any]:
        return {"workload": {"name": "linear_regression", **parameters}}

    standard = {"preset": "standard", "n": 4096, "d": 64}
    cells = {"a": of(**standard), "b": of(**{**standard, "n": 64}), "c": of(preset="classic", n=5, d=1)}
    assert naming.workload_labels(cells) == {
        "a": "linear_regression n=4096",
        "b": "linear_regression n=64",
        "c": "linear_regression classic",
    }
    assert naming.workload_labels({"a": of(**standard)}) == {"a": "linear_regression"}


def test_two_versions_of_one_framework_are_named_by_version() -> None:
    arms = {version: cell({"name": "mnist_cnn"}, "pytorch") for version in ("2.12.1", "2.13.0")}
    for version, plain in arms.items():
        plain["framework"] = {"name": "pytorch", "version": version}
    assert naming.arm_labels(arms, ["framework"]) == {"2.12.1": "PyTorch 2.12.1", "2.13.0": "PyTorch 2.13.0"}
