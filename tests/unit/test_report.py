"""Reports from a SYNTHETIC stored run (tests/unit/synthetic_run.py): golden files, the document, and how it is written.

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
from reported import INFER, LINEAR, TRAIN, contrast, formats, only, shown, whole_block
from synthetic_run import COMPARISONS, Writer, steps

from bench import text as words
from bench.estimate import frames, summary
from bench.report import export, markdown, marks, rows
from bench.store import StoredRun, read

GOLDEN = Path(__file__).parents[1] / "golden"


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
