"""The whole report, at the size of a year's runs in one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from synthetic_run import COMPARISONS, Writer, block, certificate, outcome, run_json, steps

from bench.estimate.summary import summarise
from bench.store import BLOCK_SCHEMA, PARITY_SCHEMA, StoredRun, read, stem

if TYPE_CHECKING:
    from figures import Each

BLOCKS = 50
TRIALS = 10_000


def test_a_report_of_ten_thousand_trials(each: Each, tmp_path: Path, quick: bool) -> None:
    """From the run folder to the document that `bench report --format json` prints: 100 contrasts of 50 blocks.

    Good: up to 60 s. The default matrix has a hundredth of that, and its report then comes within a second or two.
    """
    comparisons, blocks = (3, 6) if quick else (TRIALS // (2 * BLOCKS), BLOCKS)
    run = synthetic(tmp_path / "run", comparisons=comparisons, blocks=blocks)
    document = each(lambda: summarise(run), what="a report of 10⁴ trials", good_s=60.0, rounds=1)
    assert len(document["contrasts"]) == comparisons
    assert {cell["blocks"] for cell in document["cells"]} == {blocks}
    assert all(one["ratio"] and one["blocks"] == blocks for one in document["contrasts"])
    assert not {one["verdict"] for one in document["contrasts"]} & {"failed", "invalid", "unsupported"}


def synthetic(folder: Path, *, comparisons: int, blocks: int) -> StoredRun:
    """A SYNTHETIC run of many comparisons: three are drawn, the others are copies of them under other names."""
    originals = list(COMPARISONS)
    names = {f"{originals[i % 3]}.{i}" if i >= 3 else originals[i]: originals[i % 3] for i in range(comparisons)}
    run = run_json()
    run["comparisons"] = {name: {**run["comparisons"][original], "key": name} for name, original in names.items()}
    writer = Writer(folder, run)
    lines: dict[str, list[str]] = {"blocks.jsonl": [], "parity.jsonl": []}
    for name, original in names.items():
        times = COMPARISONS[original][2]
        proof = {**certificate(original), "comparison": name}
        lines["parity.jsonl"].append(json.dumps({"schema": PARITY_SCHEMA, **proof}))
        for number in range(blocks):
            record = block(name, number, {arm: outcome(arm) for arm in times})
            if name == original:
                writer.add(record, steps(times, number))
                continue
            lines["blocks.jsonl"].append(json.dumps({"schema": BLOCK_SCHEMA, **record}))
            samples = folder / "steps" / f"{stem({**record, 'comparison': original})}.parquet"
            os.link(samples, folder / "steps" / f"{stem(record)}.parquet")
    for journal, copies in lines.items():
        with (folder / journal).open("a") as handle:
            handle.writelines(f"{line}\n" for line in copies)
    return read(folder)
