"""Reports from a SYNTHETIC stored run (tests/unit/synthetic_run.py) against golden files, and every verdict's own case.

Rewrite the golden files with  BENCH_REWRITE_GOLDEN=1 pytest tests/unit/test_report.py  and read the difference.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from synthetic_run import COMPARISONS, Writer, block, cell, outcome, run_json, steps, whole_run

from bench import text as words
from bench.estimate import frames, summary
from bench.estimate import names as naming
from bench.report import export, markdown, marks, rows, table
from bench.store import StoredRun, read

GOLDEN = Path(__file__).parents[1] / "golden"
LINEAR, TRAIN, INFER = COMPARISONS


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    return whole_run(tmp_path_factory.mktemp("runs") / "synthetic")


@pytest.fixture(scope="module")
def document(stored: StoredRun) -> dict[str, Any]:
    return summary.summarise(stored)


def shown(document: dict[str, Any], width: int) -> str:
    out = io.StringIO()
    table.render(document, Console(file=out, width=width, force_terminal=False, color_system=None))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def formats(document: dict[str, Any]) -> dict[str, str]:
    return {
        "table at 120": shown(document, 120),
        "table at 80": shown(document, 80),
        "markdown": markdown.render(document),
        "csv": export.csv_text(document),
        "json": export.json_text(document),
    }


def contrast(document: dict[str, Any], comparison: str = TRAIN) -> dict[str, Any]:
    return next(one for one in document["contrasts"] if one["comparison"] == comparison)


def only(comparison: str) -> dict[str, Any]:
    """run.json with this comparison alone."""
    run = run_json()
    run["comparisons"] = {comparison: run["comparisons"][comparison]}
    return run


def whole_block(comparison: str, number: int, **changes: Any) -> dict[str, Any]:
    return block(comparison, number, {arm: outcome(arm) for arm in COMPARISONS[comparison][2]}, **changes)


# --- golden files


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("report.json", export.json_text),
        ("report.csv", export.csv_text),
        ("report.md", markdown.render),
        ("table-120.txt", lambda document: shown(document, 120)),
        ("table-80.txt", lambda document: shown(document, 80)),
    ],
)
def test_the_report_is_the_golden_file(document: dict[str, Any], name: str, write: Any) -> None:
    text = write(rounded(document))
    path = GOLDEN / name
    if os.environ.get("BENCH_REWRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def rounded(value: Any) -> Any:
    """Six digits: the last ones belong to the BLAS and to the libm."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


# --- the document


SHAPE = {
    "": ["schema", "run", "environment", "telemetry", "cells", "contrasts"],
    "run": ["id", "started_at", "launcher", "commit", "seed", "schedule"],
    "telemetry": ["source", "hz", "refresh_s"],
    "cell": ["id", "comparison", "cell", "versions", "image", "blocks", "failed", "metrics", "nulls", "evaluation"],
    "metrics": [
        *("step_ms", "cpu_ms", "items_per_s", "import_s", "build_s", "first_step_s", "peak_memory_bytes"),
        *("cpu_percent", "gpu_util_percent", "joules_per_item", "startup", "cold_build_s", "cold_first_step_s", "soak"),
        "by_sync",
    ],
    "contrast": [
        *("id", "comparison", "baseline", "arm", "metric", "ratio", "ci", "half_width", "sides", "cpu_ratio", "parity"),
        *("p", "p_holm", "p_t_holm", "p_equal_holm", "blocks", "blocks_repeated", "repeated_because"),
        *("verdict", "reason", "caveats", "confounders"),
    ],
}


def test_the_document_has_every_key_of_the_design(document: dict[str, Any]) -> None:
    assert set(SHAPE[""]) <= set(document)
    assert set(SHAPE["run"]) <= set(document["run"])
    assert set(SHAPE["telemetry"]) == set(document["telemetry"])
    for one in document["cells"]:
        assert set(SHAPE["cell"]) <= set(one)
        assert set(SHAPE["metrics"]) == set(one["metrics"])
        assert set(one["metrics"]["step_ms"]) == {"median", "ci", "p90", "p99"}
    for one in document["contrasts"]:
        assert set(SHAPE["contrast"]) == set(one)
        assert {"status", "max_rel_error"} <= set(one["parity"])


def empty_places(value: Any, path: str = "") -> Iterator[str]:
    if value is None:
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from empty_places(item, f"{path}.{key}" if path else key)


def test_every_null_of_a_cell_has_its_reason(document: dict[str, Any], tmp_path: Path) -> None:
    bare = summary.summarise(Writer(tmp_path / "bare").read())
    for one in [*document["cells"], *bare["cells"]]:
        reasons = {f"metrics.{name}" for name in one["nulls"]}
        for place in empty_places({"metrics": one["metrics"]}):
            assert place in reasons or place.rpartition(".")[0] in reasons, place


def test_contrasts_refer_to_cells_that_are_there(document: dict[str, Any]) -> None:
    ids = [one["id"] for one in document["cells"]]
    assert len(set(ids)) == len(ids)
    assert {one[side] for one in document["contrasts"] for side in ("baseline", "arm")} <= set(ids)


def test_training_is_decided_by_throughput_and_inference_by_latency(document: dict[str, Any]) -> None:
    assert [one["metric"] for one in document["contrasts"]] == ["throughput", "throughput", "latency"]


def test_the_summary_comes_from_the_folder_alone(stored: StoredRun, document: dict[str, Any]) -> None:
    assert summary.summarise(read(stored.folder)) == document
    assert summary.exit_code(document) == 0


def test_figures_agree_with_a_calculation_by_hand(stored: StoredRun, document: dict[str, Any]) -> None:
    blocks = [record for record in stored.blocks if record["comparison"] == TRAIN]
    d, medians, singles, rates, cpu = [], [], [], [], []
    for record in blocks:
        samples = stored.steps(record)
        kept = samples[~samples["settling"]]
        by_round = {
            arm: kept[(kept["arm"] == arm) & (kept["sync"] == "slice")].sort_values("round")
            for arm in ("tensorflow", "pytorch")
        }
        times = {arm: (part["time_ns"] / part["steps"]).to_numpy() for arm, part in by_round.items()}
        d.append(np.log(times["tensorflow"] / times["pytorch"]).mean())
        own = by_round["pytorch"]
        rates.append(64 * own["steps"].sum() / (own["time_ns"].sum() / 1e9))
        cpu.append(own["cpu_ns"].sum() / own["steps"].sum() / 1e6)
        medians.append(np.median(own["time_ns"] / own["steps"]) / 1e6)
        single = kept[(kept["arm"] == "pytorch") & (kept["sync"] == "step")]
        by_round = single.groupby("round")[["time_ns", "steps"]].sum()
        singles.append(np.median(by_round["time_ns"] / by_round["steps"]) / 1e6)
    one = contrast(document)
    assert one["ratio"] == pytest.approx(np.exp(np.mean(d)))
    metrics = next(c for c in document["cells"] if c["id"] == one["arm"])["metrics"]
    assert metrics["step_ms"]["median"] == pytest.approx(np.median(medians))
    assert metrics["by_sync"]["slice"]["median"] == pytest.approx(np.median(medians))
    assert metrics["by_sync"]["step"]["median"] == pytest.approx(np.median(singles))
    assert metrics["items_per_s"]["median"] == pytest.approx(np.median(rates))
    assert metrics["cpu_ms"]["median"] == pytest.approx(np.median(cpu))
    assert metrics["cpu_percent"] == pytest.approx(98, abs=0.1)


def test_cold_times_are_the_first_process_s_own_and_null_where_it_found_compiled_code(document: dict[str, Any]) -> None:
    cold = {
        (one["comparison"], one["cell"]["framework"]["name"]): (
            one["metrics"]["cold_build_s"],
            one["metrics"]["cold_first_step_s"],
            one["nulls"].get("cold_first_step_s"),
        )
        for one in document["cells"]
    }
    assert cold[LINEAR, "tensorflow"] == (None, None, "the run kept no plan with cold times")
    assert cold[TRAIN, "tensorflow"] == (0.5, 7.25, None)
    assert cold[TRAIN, "pytorch"] == (None, None, "its first process found compiled code")
    assert cold[INFER, "pytorch"] == (0.5, 7.25, None)


def test_latency_takes_the_median_step_of_each_slice(stored: StoredRun, document: dict[str, Any]) -> None:
    d = []
    for record in (one for one in stored.blocks if one["comparison"] == INFER):
        samples = stored.steps(record)
        kept = samples[~samples["settling"] & (samples["sync"] == "step")]
        medians = kept.groupby(["arm", "round"])["time_ns"].median()
        d.append(np.log(medians["tensorflow"] / medians["pytorch"]).mean())
    assert contrast(document, INFER)["ratio"] == pytest.approx(np.exp(np.mean(d)))


def test_cpu_time_is_shared_by_all_steps_of_its_stretch(tmp_path: Path) -> None:
    """Settling steps of the same stretch took their part of its CPU time."""
    writer = Writer(tmp_path / "run", only(TRAIN))
    times = COMPARISONS[TRAIN][2]
    for number in range(2):
        rows = [row for row in steps(times, number) if row["sync"] == "slice"]
        for row in rows:  # one stretch: two settling steps and four measured ones
            row.update(start_ns=row["round"] * 10**9, end_ns=row["round"] * 10**9 + 6 * 10**7, cpu_ns=6 * 10**7)
        writer.add(whole_block(TRAIN, number), rows)
    cells = summary.summarise(writer.read())["cells"]
    assert [one["metrics"]["cpu_ms"]["median"] for one in cells] == [pytest.approx(10.0)] * 2
    assert [one["metrics"]["cpu_percent"] for one in cells] == [pytest.approx(100.0)] * 2


def test_p99_appears_with_its_steps(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run", only(INFER)).certified(INFER).measured(INFER, 2, slice_steps=56)
    metrics = summary.summarise(writer.read())["cells"][0]["metrics"]["step_ms"]
    assert metrics["median"] < metrics["p90"] < metrics["p99"]


def test_short_runs_have_no_interval_that_cannot_exist(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run", only(TRAIN)).certified(TRAIN).measured(TRAIN, 5)
    document = summary.summarise(writer.read())
    assert document["cells"][0]["metrics"]["step_ms"]["ci"] is None
    assert document["cells"][0]["nulls"]["step_ms.ci"] == "5 of the 6 blocks that an exact interval takes"
    assert contrast(document)["verdict"] != "faster"
    assert "any difference takes 6" in contrast(document)["reason"]


def test_one_block_is_inconclusive_and_none_is_not_measured(tmp_path: Path) -> None:
    one = summary.summarise(Writer(tmp_path / "one", only(TRAIN)).certified(TRAIN).measured(TRAIN, 1).read())
    assert contrast(one)["verdict"] == "inconclusive"
    assert contrast(one)["ci"] is None
    none = summary.summarise(Writer(tmp_path / "none", only(TRAIN)).read())
    assert contrast(none)["verdict"] == "inconclusive"
    assert contrast(none)["reason"].startswith("not measured")
    for document in (one, none):
        assert summary.exit_code(document) == 0
        assert all(formats(document).values())


# --- what must not have a ratio


@pytest.fixture(scope="module")
def invalid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    writer = Writer(tmp_path_factory.mktemp("runs") / "invalid")
    for name in COMPARISONS:
        writer.measured(name, 8)
    writer.certified(LINEAR).certified(INFER)
    writer.certified(
        TRAIN, status="failed", reason="weights of step 3 differ by 4.1e-2, limit 1e-10", max_rel_error=0.041
    )
    return summary.summarise(writer.read())


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


# --- writing


def test_no_table_is_wider_than_its_terminal(invalid: dict[str, Any], document: dict[str, Any]) -> None:
    for one in (document, invalid):
        for width in (60, 80, 100, 120, 160):
            assert max(map(len, shown(one, width).splitlines())) <= width


def test_colour_is_never_alone(invalid: dict[str, Any]) -> None:
    text = shown(invalid, 120)
    assert "✗ invalid" in text
    assert "▲ faster" in text
    assert "✗ failed" in text


def test_every_verdict_can_be_written(document: dict[str, Any]) -> None:
    for word in marks.SYMBOLS:
        changed = copy.deepcopy(document)
        changed["contrasts"][0]["verdict"] = word
        if word in {"unsupported", "failed", "invalid"}:
            changed["contrasts"][0] |= {"ratio": None, "ci": None, "p": None, "p_holm": None, "cpu_ratio": None}
        for name, text in formats(changed).items():
            assert word in text or word.replace("_", " ") in " ".join(text.split()), (name, word)


def test_csv_is_tidy_and_no_formula(document: dict[str, Any]) -> None:
    changed = copy.deepcopy(document)
    changed["contrasts"][0]["reason"] = '=HYPERLINK("x"), "quoted"\nsecond line'
    lines = list(csv.DictReader(io.StringIO(export.csv_text(changed))))
    assert len(lines) == 2 * len(document["contrasts"])
    assert tuple(lines[0]) == export.COLUMNS
    assert lines[0]["reason"] == '\'=HYPERLINK("x"), "quoted" second line'
    assert float(lines[0]["ratio"]) == document["contrasts"][0]["ratio"]
    assert lines[0]["joules_per_item"] == ""
    assert [line["side"] for line in lines[:2]] == ["baseline", "arm"]


def test_json_refuses_what_json_cannot_hold(document: dict[str, Any]) -> None:
    assert json.loads(export.json_text(document)) == document
    with pytest.raises(ValueError, match="not JSON compliant"):
        export.json_text({**document, "notes": [float("nan")]})


def test_markdown_escapes_what_it_is_given() -> None:
    assert markdown.escape("a|b *c* <d> `e` [f](g) linear_regression _h_\nnext") == (
        r"a\|b \*c\* \<d\> \`e\` \[f\](g) linear_regression \_h\_ next"
    )


def test_markdown_tables_have_equal_rows(invalid: dict[str, Any]) -> None:
    for line in markdown.render(invalid).split("\n\n"):
        if line.startswith("|"):
            assert len({part.replace(r"\|", "").count("|") for part in line.splitlines()}) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "—"),
        (0, "0"),
        (0.01234, "0.0123"),
        (2.964, "2.96"),
        (31.44, "31.4"),
        (21634.0, "21,634"),
        (9.999, "10.0"),
    ],
)
def test_numbers_keep_three_digits(value: float | None, text: str) -> None:
    assert words.number(value) == text


@pytest.mark.parametrize(("value", "text"), [(999.4, "999"), (999.9, "1.00k"), (21634, "21.6k"), (1.24e6, "1.24M")])
def test_rates_have_units(value: float, text: str) -> None:
    assert words.rate(value) == text


def test_no_failure_list_is_endless(document: dict[str, Any]) -> None:
    one = {"cell": "a/b", "block": 0, "attempt": 0, "kind": "crashed", "reason": "exit 1", "log": ""}
    assert rows.failures({**document, "failures": [one] * 40})[-1] == "and 28 more"


def test_a_run_of_no_contrast_says_so(document: dict[str, Any]) -> None:
    assert "nothing to compare" in shown({**document, "contrasts": []}, 80)


def test_the_machine_is_told_from_whatever_is_known() -> None:
    assert rows.machine({}) == ""
    assert rows.machine({"cpu": {"model": "X", "logical": 2}, "kernel": "6.1"}) == "X, 2 cores, Linux 6.1"
    assert rows.machine({"cpu": None, "gpus": [{"name": "H100"}]}) == "H100"


def test_frames_hold_one_row_a_trial_and_one_a_round(stored: StoredRun) -> None:
    found = frames.read(stored)
    assert len(found.trials) == 3 * 8 * 2
    assert len(found.rounds) == 3 * 8 * 2 * 2 * 12
    assert not found.rounds.isna().any().any()
