"""What a report says of a contrast: what must not have a ratio, what is a caveat, what never counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reported import INFER, LINEAR, TRAIN, contrast, formats, only, shown, whole_block
from synthetic_run import COMPARISONS, Writer, block, outcome, steps

from bench import text as words
from bench.estimate import summary
from bench.report import markdown, rows


def test_failed_parity_leaves_no_ratio_in_any_format(invalid: dict[str, Any], document: dict[str, Any]) -> None:
    one, healthy = contrast(invalid), contrast(document)
    assert one["verdict"] == "invalid"
    assert [one[name] for name in ("ratio", "ci", "half_width", "p", "p_holm", "cpu_ratio")] == [None] * 6
    assert "weights of step 3" in one["reason"]
    assert summary.exit_code(invalid) == 3
    there, here = formats(document), formats(invalid)
    for name, text in here.items():
        ratio = (
            words.ratio(healthy["ratio"])
            if name in {"table at 120", "table at 80", "markdown"}
            else str(healthy["ratio"])
        )
        assert ratio in there[name], name
        assert ratio not in text, name
        assert "invalid" in text, name
        assert "weights of step 3" in " ".join(text.split()), name


def test_an_evaluation_that_was_cut_says_after_how_many_of_its_steps(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run").measured(TRAIN, 8)
    cut = {"steps": 57, "cut_from": 1000, "test_accuracy": 0.9}
    writer.certified(TRAIN, evaluations={"tensorflow": cut, "pytorch": cut})
    (line,) = [line for line in rows.results(summary.summarise(writer.read())) if "accuracy" in line]
    assert " after 57 of 1,000 steps, all that the budget had time for: " in line


def test_an_evaluation_that_failed_is_null_with_its_reason_and_takes_no_ratio(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    for name in COMPARISONS:
        writer.measured(name, 8)
    writer.certified(LINEAR).certified(INFER)
    evaluations = {"tensorflow": {"steps": 200, "test_accuracy": 0.9}, "pytorch": {"failed": "pytorch: it diverged"}}
    writer.certified(TRAIN, evaluations=evaluations)
    found = summary.summarise(writer.read())
    cells = {cell["id"]: cell for cell in found["cells"] if cell["comparison"] == TRAIN}
    assert cells[f"{TRAIN}/tensorflow"]["evaluation"]["test_accuracy"] == 0.9
    assert cells[f"{TRAIN}/pytorch"]["evaluation"] is None
    assert cells[f"{TRAIN}/pytorch"]["nulls"]["evaluation"] == "the evaluation failed: pytorch: it diverged"
    assert contrast(found)["ratio"]
    for text in formats(found).values():
        if not text.startswith("run,"):
            assert "it diverged" in text


def test_failed_parity_is_no_part_of_the_family(invalid: dict[str, Any], document: dict[str, Any]) -> None:
    assert contrast(document, LINEAR)["p_holm"] == pytest.approx(3 * contrast(document, LINEAR)["p"])
    assert contrast(invalid, LINEAR)["p_holm"] == pytest.approx(2 * contrast(invalid, LINEAR)["p"])


@pytest.mark.parametrize("certificates", [[], [{"status": "skipped", "reason": "no reference", "max_rel_error": None}]])
def test_no_certificate_no_ratio(tmp_path: Path, certificates: list[dict[str, Any]]) -> None:
    writer = Writer(tmp_path / "run", only(TRAIN)).measured(TRAIN, 8)
    for changes in certificates:
        writer.certified(TRAIN, **changes)
    one = contrast(summary.summarise(writer.read()))
    assert (one["verdict"], one["ratio"], one["parity"]["status"]) == ("invalid", None, "skipped")


def test_the_last_certificate_of_a_contrast_counts(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run", only(TRAIN)).measured(TRAIN, 8)
    writer.certified(TRAIN, status="failed", reason="broken").certified(TRAIN)
    assert contrast(summary.summarise(writer.read()))["verdict"] == "faster"


def crashed(number: int, **changes: Any) -> dict[str, Any]:
    bad = outcome(
        "pytorch", status="failed", kind="crashed", reason="exit 139 [bold]boom[/] | `x`\x1b[31m", log="logs/a.log"
    )
    return block(TRAIN, number, {"tensorflow": outcome("tensorflow"), "pytorch": bad}, **changes)


def test_a_worker_that_always_fails_is_a_failed_contrast(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run", only(TRAIN)).certified(TRAIN)
    for number in range(3):
        writer.add(crashed(number))
    document = summary.summarise(writer.read())
    one = contrast(document)
    assert (one["verdict"], one["ratio"]) == ("failed", None)
    assert one["reason"].startswith("PyTorch: exit 139")
    assert [cell["failed"] for cell in document["cells"]] == [0, 3]
    assert summary.exit_code(document) == 3
    for name, text in formats(document).items():
        assert "\x1b" not in text, name
        assert "boom" in text, name
    assert "[bold]boom[/]" in shown(document, 120)
    assert "logs/a.log" in shown(document, 120)
    assert r"\[bold\]boom\[/\] \| \`x\`" in markdown.render(document)


def test_a_few_failures_leave_the_verdict_and_set_the_exit_code(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run", only(TRAIN)).certified(TRAIN).measured(TRAIN, 8).add(crashed(8))
    document = summary.summarise(writer.read())
    assert contrast(document)["verdict"] == "faster"
    assert contrast(document)["blocks"] == 8
    assert document["failures"][0]["kind"] == "crashed"
    assert summary.exit_code(document) == 3


def test_unsupported_is_a_verdict_and_no_failure(tmp_path: Path) -> None:
    arms = {
        "tensorflow": outcome("tensorflow"),
        "pytorch": outcome("pytorch", status="unsupported", reason="PyTorch has no graph mode"),
    }
    document = summary.summarise(Writer(tmp_path / "run", only(TRAIN)).add(block(TRAIN, 0, arms)).read())
    assert contrast(document)["verdict"] == "unsupported"
    assert contrast(document)["reason"] == "PyTorch: PyTorch has no graph mode"
    assert summary.exit_code(document) == 0


def with_disturbed(folder: Path, disturbed: int, undisturbed: int, factor: float = 1.0) -> dict[str, Any]:
    """A run of so many disturbed attempts, in which PyTorch takes `factor` times as long, and so many undisturbed."""
    writer = Writer(folder, only(TRAIN)).certified(TRAIN)
    times = COMPARISONS[TRAIN][2]
    slower = {"tensorflow": times["tensorflow"], "pytorch": round(times["pytorch"] * factor)}
    for number in range(disturbed):
        writer.add(whole_block(TRAIN, number, spoiled=["waiting: long"]), steps(slower, 100 + number))
    for number in range(undisturbed):
        writer.add(whole_block(TRAIN, number, attempt=int(number < disturbed)), steps(times, number))
    return summary.summarise(writer.read())


@pytest.mark.parametrize("disturbed", [1, 3, 8])
def test_disturbed_blocks_that_say_the_same_are_a_caveat_and_no_refusal(tmp_path: Path, disturbed: int) -> None:
    document = with_disturbed(tmp_path / "run", disturbed, 8)
    one = contrast(document)
    assert (one["verdict"], one["blocks"], one["blocks_repeated"]) == ("faster", 8, disturbed)
    (caveat,) = one["caveats"]
    assert caveat["kind"] == "disturbed"
    assert caveat["figures"]["attempts"] == 8 + disturbed
    assert caveat["figures"]["counted"]["ratio"] == one["ratio"]
    for name, text in formats(document).items():
        assert "disturbed" in text, name


RETRACED = "compilation: pytorch compiled 3 times while it was timed (limit 0)"
TOO_FAST = "too fast: pytorch would have done 900 GFLOP/s where its device does 100 at most (limit 4 times that)"


@pytest.mark.parametrize("reason", [RETRACED, TOO_FAST])
def test_what_was_measured_wrongly_is_no_nuisance_and_never_counts(tmp_path: Path, reason: str) -> None:
    """Every figure of such a block agrees with every other, and all are wrong."""
    writer, times = Writer(tmp_path / "run", only(TRAIN)).certified(TRAIN), COMPARISONS[TRAIN][2]
    for number in range(8):
        writer.add(whole_block(TRAIN, number, spoiled=[reason, "steal: much"]), steps(times, number))
    document = summary.summarise(writer.read())
    one = contrast(document)
    assert (one["verdict"], one["ratio"]) == ("invalid", None)
    assert one["reason"].startswith(f"8 of 8 blocks cannot count: {reason}")
    assert summary.exit_code(document) == 3


def test_a_block_that_was_measured_wrongly_is_repeated_and_changes_nothing(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    writer = Writer(tmp_path / "run").certified(TRAIN).measured(TRAIN, 8)
    times = {"tensorflow": 9_000_000, "pytorch": 9_000}
    writer.add(whole_block(TRAIN, 8, spoiled=[RETRACED]), steps(times, 8))
    one = contrast(summary.summarise(writer.read()))
    assert (one["ratio"], one["caveats"]) == (contrast(document)["ratio"], [])


def with_a_third() -> dict[str, Any]:
    """A comparison of TRAIN's two arms and a third, as quick as PyTorch."""
    run = only(TRAIN)
    arms = run["comparisons"][TRAIN]["arms"]
    arms["third"] = {**arms["pytorch"], "framework": {"name": "pytorch", "version": "2.12.1"}}
    return run


def test_each_contrast_counts_the_blocks_that_hold_its_own_arms(tmp_path: Path) -> None:
    """The third dies in half of the blocks, none of which anything disturbed: it has no part in those of the others."""
    writer = Writer(tmp_path / "run", with_a_third()).certified(TRAIN).certified(TRAIN, arm="third")
    times = COMPARISONS[TRAIN][2] | {"third": COMPARISONS[TRAIN][2]["pytorch"]}
    for number in range(8):
        arms = {arm: outcome(arm) for arm in times}
        dead = number < 6
        if dead:
            arms["third"] = outcome("third", status="failed", reason="exit 3")
        spoiled = ["waiting: long"] if number == 1 else []
        rows = [row for row in steps(times, number) if not (dead and row["arm"] == "third")]
        writer.add(block(TRAIN, number, arms, spoiled=spoiled), rows)
    found = {one["arm"].rpartition("/")[2]: one for one in summary.summarise(writer.read())["contrasts"]}
    assert (found["pytorch"]["blocks"], found["pytorch"]["blocks_repeated"]) == (7, 1)
    assert [caveat["kind"] for caveat in found["pytorch"]["caveats"]] == ["disturbed"]
    assert (found["third"]["blocks"], found["third"]["blocks_repeated"], found["third"]["caveats"]) == (2, 0, [])
    sides = {name: one["sides"]["baseline"]["step_ms"]["median"] for name, one in found.items()}
    assert sides["pytorch"] != sides["third"]
    assert sides["third"] / found["third"]["sides"]["arm"]["step_ms"]["median"] == pytest.approx(
        found["third"]["ratio"], rel=0.02
    )


def test_an_arm_that_is_given_up_midway_says_why_instead_of_asking_for_more_time(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run", only(TRAIN)).certified(TRAIN).measured(TRAIN, 2)
    for number in range(2, 5):
        writer.add(crashed(number))
    one = contrast(summary.summarise(writer.read()))
    assert one["verdict"] == "inconclusive"
    assert "pytorch failed in 3 blocks in a row: exit 139" in one["reason"]
    assert "raise blocks" not in one["reason"]


def test_a_block_that_was_cut_short_lengthens_no_warm_up(tmp_path: Path) -> None:
    """As many warm-up steps before one round as before twelve: a line drawn back over them would deny what is there."""
    writer = Writer(tmp_path / "run", only(TRAIN)).certified(TRAIN).measured(TRAIN, 8, drift={"pytorch": 0.006})
    stopped = {arm: outcome(arm, status="stopped", warm_steps=3000) for arm in ("tensorflow", "pytorch")}
    writer.add(block(TRAIN, 8, stopped | {"tensorflow": outcome("tensorflow", status="failed")}, rounds=1))
    assert contrast(summary.summarise(writer.read()))["verdict"] == "faster"


def test_a_claim_that_disturbed_blocks_contradict_is_invalid_and_keeps_its_ratio(tmp_path: Path) -> None:
    document = with_disturbed(tmp_path / "run", 8, 8, factor=1.2)
    one = contrast(document)
    assert one["verdict"] == "invalid"
    assert one["ratio"] is not None
    assert "stop what else runs" in one["reason"]
    assert f"{one['ratio']:.3f}" in formats(document)["markdown"]


def test_every_attempt_counts_where_too_few_are_undisturbed(tmp_path: Path) -> None:
    one = contrast(with_disturbed(tmp_path / "run", 8, 5))
    assert (one["verdict"], one["blocks"], one["blocks_repeated"]) == ("faster", 13, 8)
    (caveat,) = one["caveats"]
    assert caveat["figures"]["counted"] == caveat["figures"]["every_attempt"]


def test_a_row_does_not_contradict_itself(tmp_path: Path) -> None:
    """Single steps that cost more each, as a synchronisation does, are in no figure that stands beside the ratio."""
    writer, times = Writer(tmp_path / "run", only(TRAIN)).certified(TRAIN), COMPARISONS[TRAIN][2]
    for number in range(8):
        rows = steps(times, number)
        for row in rows:
            if row["sync"] == "step" and row["arm"] == "tensorflow":
                row["time_ns"] = round(1.5 * row["time_ns"])
        writer.add(whole_block(TRAIN, number), rows)
    document = summary.summarise(writer.read())
    one = contrast(document)
    baseline, arm = (
        next(cell for cell in document["cells"] if cell["id"] == one[side])["metrics"] for side in ("baseline", "arm")
    )
    assert baseline["step_ms"]["median"] / arm["step_ms"]["median"] == pytest.approx(one["ratio"], rel=0.02)
    assert arm["items_per_s"]["median"] / baseline["items_per_s"]["median"] == pytest.approx(one["ratio"], rel=0.02)
    assert baseline["items_per_s"]["median"] * baseline["step_ms"]["median"] == pytest.approx(64_000, rel=0.02)
    assert baseline["by_sync"]["step"]["median"] > 1.4 * baseline["by_sync"]["slice"]["median"]


def test_both_rulers_hold_what_comes_every_few_steps(tmp_path: Path) -> None:
    """As Python's collection of garbage: in a slice's mean it is, so in the mean of single steps it must be."""
    writer, times = Writer(tmp_path / "run", only(INFER)).certified(INFER), COMPARISONS[INFER][2]
    for number in range(8):
        rows = steps(times, number)
        for i, row in enumerate(rows):
            if row["sync"] == "slice":
                row["time_ns"] = round(1.1 * row["time_ns"])
            elif not i % 4:
                row["time_ns"] = round(1.4 * row["time_ns"])
        writer.add(whole_block(INFER, number), rows)
    for one in summary.summarise(writer.read())["cells"]:
        by_sync, latency = one["metrics"]["by_sync"], one["metrics"]["step_ms"]["median"]
        assert by_sync["step"]["median"] == pytest.approx(by_sync["slice"]["median"], rel=0.03)
        assert latency < 0.95 * by_sync["step"]["median"], "the step that most are"


def test_latency_rows_show_the_latency_and_its_own_throughput(document: dict[str, Any]) -> None:
    for one in document["cells"]:
        metrics, decides = one["metrics"], "step" if one["cell"]["phase"] == "infer" else "slice"
        mean_step_ms = metrics["by_sync"][decides]["median"]
        assert metrics["step_ms"]["median"] == pytest.approx(mean_step_ms, rel=0.02 if decides == "step" else 1e-12)
        size = one["cell"]["batch_size"]
        assert metrics["items_per_s"]["median"] * metrics["step_ms"]["median"] == pytest.approx(1e3 * size, rel=0.02)


def test_a_spoiled_block_changes_no_number(tmp_path: Path, document: dict[str, Any]) -> None:
    writer = Writer(tmp_path / "run").certified(TRAIN).measured(TRAIN, 8)
    writer.add(whole_block(TRAIN, 8, spoiled=["pressure"]), steps({"tensorflow": 9e9, "pytorch": 1e6}, 8))
    assert contrast(summary.summarise(writer.read()))["ratio"] == contrast(document)["ratio"]


def test_an_arm_that_slows_through_every_block_is_not_steady(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run", only(TRAIN)).certified(TRAIN)
    writer.measured(TRAIN, 8, drift={"pytorch": 0.05})
    one = contrast(summary.summarise(writer.read()))
    assert one["verdict"] in {"no_steady_state", "degrading"}
    assert "PyTorch slows by" in one["reason"]
    assert one["ratio"] is not None


def test_drift_of_both_arms_is_the_machines(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run", only(TRAIN)).certified(TRAIN)
    writer.measured(TRAIN, 8, drift={"pytorch": 0.3, "tensorflow": 0.3})
    assert contrast(summary.summarise(writer.read()))["verdict"] == "faster"


def test_no_variance_is_failed(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run", only(TRAIN)).certified(TRAIN)
    times = COMPARISONS[TRAIN][2]
    for number in range(8):
        writer.add(whole_block(TRAIN, number), steps(times, 0))
    document = summary.summarise(writer.read())
    assert contrast(document)["verdict"] == "failed"
    assert summary.exit_code(document) == 3


def test_a_valid_block_without_samples_does_not_count(tmp_path: Path) -> None:
    writer = (
        Writer(tmp_path / "run", only(TRAIN)).certified(TRAIN).add(whole_block(TRAIN, 0)).add(whole_block(TRAIN, 1))
    )
    one = contrast(summary.summarise(writer.read()))
    assert (one["ratio"], one["blocks"]) == (None, 0)
