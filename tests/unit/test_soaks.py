"""Soaks and pictures from stored runs that lack something: every null has its reason, and nothing is a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from synthetic_run import Writer, whole_run

from bench import store, telemetry
from bench.cli import cli
from bench.errors import InputError
from bench.report import chart, soaks, summary, telemetry_show

if TYPE_CHECKING:
    from bench.store import StoredRun

S = 1_000_000_000
GPU, OTHER = "GPU-0", "GPU-1"
Keep = Callable[..., Path]


@pytest.fixture
def stored(tmp_path: Path) -> StoredRun:
    """A run of the unit tests' writer, whose first block's arms have soaked."""
    run = whole_run(tmp_path / "run", blocks=1)
    for number, record in enumerate(run.blocks):
        for place, outcome in enumerate(record["arms"].values()):
            start_ns = (10 + 4 * place) * S
            outcome["soak"] = {"start_ns": start_ns, "end_ns": start_ns + 3 * S, "steps": 100} if not number else None
    return run


def keep(run: StoredRun, rows: list[dict[str, Any]], **facts: Any) -> Path:
    """The telemetry file of the run's first block."""
    kinds = {"arm": pa.string(), "gpu": pa.string()}
    table = pa.Table.from_pylist(rows, pa.schema([(name, kinds.get(name, pa.int64())) for name in telemetry.COLUMNS]))
    gpus = [{"uuid": uuid, "name": "STUB-GPU (replay)", "power_is": "average of 1 s"} for uuid in (GPU, OTHER)]
    meta = {"schema": telemetry.SCHEMA, "source": "replay", "hz": 10, "ticks": 1, "late": 0, "seconds": 1.0,
            "sampler_cpu_s": 0.0, "gpus": gpus, "nulls": {}, "foreign": {}, **facts}  # fmt: skip
    path = run.folder / "telemetry" / f"{store.stem(run.blocks[0])}.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table.replace_schema_metadata({b"bench.telemetry": json.dumps(meta).encode()}), path)
    return path


def readings(gpu: str = GPU, *, until_s: float = 20.0, **fields: int) -> list[dict[str, Any]]:
    """A GPU read 50 times a second, its energy moving every 0.1 s at 300 W."""
    times = [(5 * S) + number * S // 50 for number in range(int((until_s - 5) * 50))]
    given = {"gpu_util_percent": 90, "power_average_mw": 300_000, "gpu_memory_used_bytes": 2**30, **fields}
    return [{"t_ns": t, "gpu": gpu, "energy_mj": t * 10 // S * 30_000, **given} for t in times]


def first(run: StoredRun) -> tuple[soaks.Soak, soaks.Soak]:
    record = run.blocks[0]
    found = soaks.read(run).of
    one, other = (found[record["comparison"], arm][0] for arm in record["arms"])
    return one, other


def test_a_soak_with_all_that_it_takes_has_every_figure_of_the_gpu(stored: StoredRun) -> None:
    keep(stored, readings())
    for soak in first(stored):
        assert soak.figures["power_by_energy_w"] == pytest.approx(300, rel=0.01)
        assert soak.figures["gpu_util_percent"] == 90
        assert soak.power_is == "average of 1 s"
        assert set(soak.nulls) >= {"cpu_joules_per_item", "gpu_memory_arm_bytes"}


def test_readings_that_were_not_kept_are_the_reason_and_not_a_soak_that_was_never_asked_for(stored: StoredRun) -> None:
    for soak in first(stored):
        assert soak.figures == {}
        assert set(soak.nulls.values()) == {"the readings of its block were not kept"}


def test_a_program_of_others_that_comes_in_a_soak_takes_that_soaks_figures_and_no_others(stored: StoredRun) -> None:
    program = {"name": "game", "memory_bytes": 1, "first_ns": 11 * S, "last_ns": 12 * S}
    keep(stored, readings(), foreign={GPU: {"77": program}})
    one, other = first(stored)
    assert one.nulls["gpu_util_percent"] == "another program was on the GPU: game (process 77)"
    assert not set(one.figures) & {"power_w", "joules_per_item"}
    assert other.figures["gpu_util_percent"] == 90


def test_a_gpu_that_is_lost_within_a_soak_ends_its_energy_with_the_drivers_word(stored: StoredRun) -> None:
    keep(
        stored,
        readings(until_s=11.3),
        nulls={f"{GPU}.{name}": "GPU is lost" for name in ("energy_mj", "power_average_mw")},
    )
    one, other = first(stored)
    assert "seen to move over" in one.nulls["joules_per_item"]
    assert other.nulls["joules_per_item"] == other.nulls["power_w"] == "GPU is lost"
    assert other.power_is is None


def test_where_nobody_can_be_told_the_arms_own_memory_says_why(stored: StoredRun) -> None:
    keep(stored, readings(), nulls={"programs": "another namespace"})
    assert first(stored)[0].nulls["gpu_memory_arm_bytes"] == "another namespace"


def test_of_several_gpus_an_arms_own_counts(stored: StoredRun) -> None:
    record = stored.blocks[0]
    for outcome in record["arms"].values():
        outcome["gpu"] = {"uuid": OTHER}
    keep(stored, [*readings(gpu_util_percent=3), *readings(OTHER, gpu_util_percent=80)])
    assert first(stored)[0].figures["gpu_util_percent"] == 80
    told = [one for one in telemetry_show.document(stored)["spans"] if one["span"] == "soak"]
    assert {one["gpu_util_percent"] for one in told} == {80.0}
    assert {one["gpu_util_percent"] for one in telemetry_show.document(stored)["spans"] if one["span"] != "soak"} == {
        None
    }


def test_without_a_soak_the_cell_says_so_in_one_place(stored: StoredRun) -> None:
    for record in stored.blocks:
        for outcome in record["arms"].values():
            outcome["soak"] = None
    for cell in summary.summarise(stored)["cells"]:
        assert cell["metrics"]["soak"] is cell["metrics"]["joules_per_item"] is None
        assert cell["nulls"]["soak"] == cell["nulls"]["joules_per_item"]


# ---------------------------------------------------------------- pictures of what is not there


def test_a_block_without_a_reading_is_no_picture_and_the_next_best_is_drawn(stored: StoredRun) -> None:
    keep(stored, [])
    with pytest.raises(InputError, match="no block of any comparison has readings"):
        chart.choose(stored)
    assert telemetry_show.chosen(stored, comparison=None, block=None) is None
    keep(stored, readings())
    assert chart.choose(stored) is stored.blocks[0]
    with pytest.raises(InputError, match="no block 99 of any comparison was measured"):
        chart.choose(stored, block=98)
    with pytest.raises(InputError, match='comparison "x" is not in this run; choose'):
        chart.choose(stored, comparison="x")


def test_the_verbs_say_in_one_sentence_what_cannot_be_drawn(tmp_path: Path) -> None:
    Writer(tmp_path / "bare").read()
    runner = CliRunner()
    for arguments in (["chart"], ["chart", "--block", "1"], ["show", "--block", "1"], ["chart", "--to", "x.gif"]):
        done = runner.invoke(cli, ["telemetry", arguments[0], str(tmp_path / "bare"), *arguments[1:]])
        assert isinstance(done.exception, InputError), (arguments, done.output)
        assert "\n" not in str(done.exception)
    done = runner.invoke(cli, ["telemetry", "show", str(tmp_path / "bare")])
    assert done.exit_code == 0
    assert "no block was sampled" in done.output


def test_a_picture_of_another_kind_is_refused(stored: StoredRun, tmp_path: Path) -> None:
    keep(stored, readings())
    drawn = chart.block_chart(stored, chart.choose(stored))
    with pytest.raises(InputError, match="end the name with one of them"):
        chart.write(drawn, tmp_path / "c.gif")
    titles = [panel["layer"][1]["encoding"]["y"]["title"] for panel in drawn["vconcat"]]
    assert titles == ["GPU utilization, %", "GPU memory, GiB", "GPU power, W"], "no arm was read, and no clock"
    assert "REPLAY" in drawn["title"]["subtitle"][0]
