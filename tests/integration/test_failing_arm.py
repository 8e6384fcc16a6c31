"""An arm that dies in every block, in real processes: it takes nobody with it, and a resumed run stands as before.

Stubs go through the real launcher, loop, store and report. Gates are left out: a busy machine would repeat blocks, and
how often an arm was started is counted here.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench import store
from bench.estimate import summary
from bench.matrix.matrix import load
from bench.measure import certify, gates, parity, run
from bench.planning.slices import Plan, SlicePlan
from bench.report.live import View

ROUNDS, STEPS, SETTLE, WARM, BLOCKS = 8, 10, 2, 10, 5
DIES_AT = WARM + 2 * (STEPS + SETTLE)  # in its third slice, or thereabouts
DIES_WARMING = 5
KINDS = pytest.mark.parametrize("kind", ["lockstep", "serial"])


@pytest.fixture(autouse=True)
def _quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "reasons", lambda _: [])


@dataclass
class Measured:
    """A run of stubs to its end, and what was said meanwhile."""

    folder: Path
    said: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return store.read(self.folder).blocks

    @property
    def document(self) -> dict[str, Any]:
        return summary.summarise(store.read(self.folder))

    def contrast(self, part: str) -> dict[str, Any]:
        return next(one for one in self.document["contrasts"] if part in one["arm"])


def measured(folder: Path, *stubs: str, kind: str = "lockstep") -> Measured:
    """Run stubs with these parameters, the first one the baseline, by a plan that is given."""
    matrix_file = folder / "m.yaml"
    frameworks = ", ".join(f"{{name: stub{', ' if one else ''}{one}}}" for one in stubs)
    matrix_file.write_text(
        f"name: m\naxes: {{workload: [{{name: stub, bytes: 16384}}], framework: [{frameworks}]}}\n"
        f"budget: {{blocks: {BLOCKS}}}\nschedule: {kind}\nseed: 4\n"
    )
    matrix = load(str(matrix_file))
    (comparison,) = matrix.comparisons
    names = [arm.id for arm in comparison.arms]
    plan = Plan(
        slices=SlicePlan(steps=dict.fromkeys(names, STEPS), settle_steps=SETTLE, rounds=ROUNDS),
        warm_steps=dict.fromkeys(names, WARM),
        step_ns=dict.fromkeys(names, 50_000.0),
    )
    skipped = parity.skipped(certify.STUB_REASON).to_json()
    certificates = [
        {"comparison": comparison.id, "baseline": baseline.id, "arm": arm.id} | skipped
        for baseline, arm in comparison.contrasts
    ]
    prepared = run.Prepared(plans={comparison.id: plan}, certificates=certificates)
    said = io.StringIO()
    out = folder / "runs"
    view = View(Console(file=said, width=200))
    return Measured(
        run.new(matrix, launchers=["local"], out=out, base=None, view=view, prepared=prepared), said.getvalue()
    )


def statuses(record: dict[str, Any]) -> dict[str, str]:
    return {arm: outcome["status"] for arm, outcome in record["arms"].items()}


@KINDS
@pytest.mark.parametrize("dies_at", [DIES_WARMING, DIES_AT], ids=["warming", "measuring"])
def test_a_third_arm_that_dies_in_every_block_takes_nobody_with_it_and_is_given_up_after_three(
    tmp_path: Path, kind: str, dies_at: int
) -> None:
    found = measured(tmp_path, "", "work: 1.5", f"work: 2, dies_at: {dies_at}", kind=kind)
    well, dead = {"stub": "measured", "stub-work1.5": "measured"}, f"stub-dies_at{dies_at}-work2.0"
    assert [statuses(record) for record in found.records] == [{**well, dead: "failed"}] * 3 + [well] * (BLOCKS - 3)
    stored = store.read(found.folder)
    for record in found.records:
        steps = stored.steps(record)
        for arm in well:
            own = steps[(steps["arm"] == arm) & (steps["sync"] == "slice") & ~steps["settling"]]
            assert sorted(own["round"]) == list(range(ROUNDS)), "every slice of it"
        assert {arm for facts in record["gates"] for arm in facts["arms"]} == set(well)
        assert not [name for facts in record["gates"] for name in facts["nulls"] if name.startswith(dead)]
    for record in found.records[:3]:
        outcome = record["arms"][dead]
        assert (outcome["kind"], "ended with exit status 3" in outcome["reason"]) == ("crashed", True)
        assert "as it was told" in (found.folder / outcome["log"]).read_text()
    assert found.contrast("work1.5")["blocks"] == BLOCKS
    assert found.contrast("work1.5")["ratio"] < 0.9
    assert (found.contrast(dead)["verdict"], found.contrast(dead)["ratio"]) == ("failed", None)
    assert "ended with exit status 3" in found.contrast(dead)["reason"]
    assert len(found.document["failures"]) == 3
    assert summary.exit_code(found.document) == 3


@KINDS
def test_a_baseline_that_dies_ends_its_blocks_and_after_three_the_comparison(tmp_path: Path, kind: str) -> None:
    found = measured(tmp_path, f"dies_at: {DIES_AT}", "work: 1.5", "work: 2", kind=kind)
    assert len(found.records) == 3
    for record in found.records:
        assert statuses(record) == {f"stub-dies_at{DIES_AT}": "failed", "stub-work1.5": "stopped",
                                    "stub-work2.0": "stopped"}  # fmt: skip
    assert [one["verdict"] for one in found.document["contrasts"]] == ["failed", "failed"]
    assert f"stub-dies_at{DIES_AT} failed in 3 blocks in a row" in found.said


def test_where_the_last_other_arm_dies_too_the_block_ends(tmp_path: Path) -> None:
    found = measured(tmp_path, "", f"work: 1.5, dies_at: {DIES_WARMING}", f"work: 2, dies_at: {DIES_AT}")
    assert len(found.records) == 3
    for record in found.records:
        assert sorted(statuses(record).values()) == ["failed", "failed", "stopped"]
    assert [one["verdict"] for one in found.document["contrasts"]] == ["failed", "failed"]


@pytest.mark.parametrize("kept", [1, 2, 3, 4])
def test_a_resumed_run_gives_up_the_arm_where_the_killed_one_would_have(tmp_path: Path, kept: int) -> None:
    found = measured(tmp_path, "", "work: 1.5", f"work: 2, dies_at: {DIES_WARMING}")
    before = [(record["block"], statuses(record)) for record in found.records]
    journal = found.folder / "blocks.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:kept]))
    header = json.loads((found.folder / "run.json").read_text())
    (found.folder / "run.json").write_text(json.dumps(header | {"finished_at": None}))
    run.resume(found.folder, view=View(Console(file=io.StringIO())))
    assert [(record["block"], statuses(record)) for record in found.records] == before
