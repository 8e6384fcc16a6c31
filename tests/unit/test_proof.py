"""What `bench parity` prints, of records as it makes them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from rich.console import Console

from bench.measure import prove

Record = dict[str, Any]
HORIZON = {
    "steps": 1, "sensitivity": 6e-13, "timed_steps": 1,
    "updates": {"rate": 1e-3, "steps": 21, "sensitivity": 4e-13},
}  # fmt: skip


def check(arm: str, name: str, value: float | None, *, passed: bool = True) -> Record:
    return {"name": name, "arm": arm, "place": "stem/kernel", "value": value, "limit": 1e-11, "passed": passed}


def record(arm: str, checks: list[Record], **more: Any) -> Record:
    told = {
        "comparison": "resnet(depth=110)-train", "workload": "resnet(depth=110)", "phase": "train",
        "baseline": "tensorflow-eager", "arm": arm, "seconds": 321.4, "status": "passed", "reason": "", "by": None,
        "horizon": HORIZON if checks else None, "checks": checks, "mode": arm.rpartition("-")[2],
    }  # fmt: skip
    return told | more


def printed(records: list[Record], show: Callable[[Any, Console], None] = prove.print_table) -> str:
    console = Console(file=io.StringIO(), width=80)
    show(records, console)
    file: Any = console.file
    return str(file.getvalue())


BASELINE = check("tensorflow-eager", "float64 gradients", 2.5e-14)


def test_a_table_of_eighty_columns_cuts_nothing_and_says_every_arm_s_largest_error_and_the_horizon() -> None:
    own = [check("pytorch-compiled", "float64 gradients", 3e-14), check("pytorch-compiled", "fp32 gradients", 1e-5)]
    text = printed([record("pytorch-compiled", [BASELINE, *own])])
    assert "…" not in text
    of_all, baseline, arm = text.splitlines()[-3:]
    assert of_all.split() == ["resnet(depth=110)", "train", "1", "step,", "21", "at", "1/1000", "321"]
    assert baseline.split() == ["tensorflow-eager", "2.5e-14", "✓", "passed"]
    assert arm.split() == ["pytorch-compiled", "3.0e-14", "✓", "passed"], "of the float64 checks alone"


def test_one_mode_alone_which_no_arm_s_name_says_stands_beside_the_phase() -> None:
    own = [check(arm, "float64 gradients", 3e-14) for arm in ("tensorflow", "pytorch")]
    text = printed([record("pytorch", own, baseline="tensorflow", mode="compiled")])
    assert text.split().count("compiled") == 1
    assert "compiled" not in printed([record("pytorch-compiled", own)]).split()


def test_a_failed_arm_shows_the_first_error_over_its_bound_and_below_the_table_the_reason() -> None:
    wrong = [
        check("pytorch-eager", "float64 gradients", 3e-5, passed=False),
        check("pytorch-eager", "float64 weights", 0.3, passed=False),
    ]
    reason = "pytorch-eager: float64 gradients (stem/kernel) 3.0e-05, limit 1.0e-11"
    text = printed([record("pytorch-eager", [BASELINE, *wrong], status="failed", reason=reason)])
    assert ["pytorch-eager", "3.0e-05", "✗", "failed"] in [line.split() for line in text.splitlines()]
    assert " ".join(text.split()).endswith(f"✗ resnet(depth=110)-train: {reason}")


def test_an_arm_that_is_left_out_takes_no_other_s_proof_with_it() -> None:
    out = record("pytorch-compiled", [], status="unsupported", reason="no compiler", by="pytorch-compiled")
    proved = record("pytorch-eager", [BASELINE, check("pytorch-eager", "float64 gradients", 4e-14)])
    lines = {line.split()[0]: line.split()[1:] for line in printed([out, proved]).splitlines() if line.strip()}
    assert lines["tensorflow-eager"] == ["2.5e-14", "✓", "passed"]
    assert lines["pytorch-compiled"] == ["—", "–", "unsupported"]
    assert lines["pytorch-eager"] == ["4.0e-14", "✓", "passed"]


def test_an_error_that_is_not_finite_is_a_dash_and_failed() -> None:
    wrong = check("pytorch-eager", "float64 losses", None, passed=False)
    text = printed([record("pytorch-eager", [BASELINE, wrong], status="failed", reason="…")])
    assert ["pytorch-eager", "—", "✗", "failed"] in [line.split() for line in text.splitlines()]


def test_checks_show_every_one_with_its_bound() -> None:
    text = printed([record("pytorch-eager", [BASELINE])], prove.print_checks)
    assert "2.5e-14" in text
    assert "1.0e-11" in text
