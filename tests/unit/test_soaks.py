"""Soaks and pictures from stored runs that lack something: every null has its reason, and nothing is a traceback."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from rich.console import Console
from synthetic_run import Writer, whole_run

from bench import store, telemetry, text
from bench.cli.main import cli
from bench.errors import InputError
from bench.estimate import soaks, summary
from bench.report import chart
from bench.report import telemetry as telemetry_show

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
    cells = telemetry_show.document(stored)["cells"]
    assert {cell["soak"]["gpu_util_percent"]["median"] for cell in cells if cell["soak"]} == {80}
    assert not any("gpu_util_percent" in one for one in telemetry_show.document(stored)["spans"]), "of soaks alone"


def shown(run: StoredRun) -> str:
    """What a terminal shows of it, its words one space apart."""
    console = Console(width=160, file=io.StringIO(), record=True)
    telemetry_show.print_all(run, console, record=telemetry_show.chosen(run, comparison=None, block=None))
    return " ".join(console.export_text().split())


def test_a_program_is_named_as_it_calls_itself_whatever_that_means_to_a_terminal(stored: StoredRun) -> None:
    programs = {"77": {"name": "[/x]", "first_ns": 0, "last_ns": 1, "memory_bytes": 1},
                "78": {"name": "[bold]game", "first_ns": 0, "last_ns": 1, "memory_bytes": 1}}  # fmt: skip
    keep(stored, readings(), foreign={GPU: programs})
    assert "[/x] (process 77)" in shown(stored)
    assert "[bold]game (process 78)" in shown(stored)


def test_show_says_why_a_figure_of_a_soak_is_null(stored: StoredRun) -> None:
    keep(stored, [row | {"energy_mj": 7} for row in readings()])
    assert re.search(r"no energy an item.*: the counter did not move in 3\.00 s", shown(stored))
    keep(stored, [])
    (stored.folder / "telemetry" / f"{store.stem(stored.blocks[0])}.parquet").unlink()
    assert "the readings of its block were not kept" in shown(stored)


def test_a_field_that_one_gpu_lacks_is_not_told_of_all(stored: StoredRun) -> None:
    nulls = {f"{OTHER}.energy_mj": "Not Supported", f"{GPU}.ecc_total": "none", f"{OTHER}.ecc_total": "none"}
    keep(stored, readings(), nulls=nulls)
    assert "Not Supported: energy_mj (GPU-1)" in shown(stored)
    (reason,) = telemetry_show._reasons({f"{one}.energy_mj": "none" for one in (GPU, OTHER)}, ({GPU, OTHER}, set()))
    assert reason == "none: energy_mj"


def test_every_row_is_counted_once_and_a_gap_lasts_what_is_left(stored: StoredRun) -> None:
    arm = next(iter(stored.blocks[0]["arms"]))
    of_arm = [{"t_ns": t * S, "arm": arm, "memory_bytes": t} for t in (6, 11, 12, 15)]  # of another's time too
    path = keep(stored, [*readings(), *of_arm, {"t_ns": 12 * S, "package_energy_uj": 5}])
    spans = telemetry_show.document(stored)["spans"]
    kinds = ("readings", "gpu_readings", "energy_readings")
    assert sum(one[kind] for one in spans for kind in kinds) == telemetry.row_count(path)
    gap = next(one for one in spans if one["span"] == "gap")
    assert gap["owner"] is None
    assert gap["readings"] == 1
    soak = next(one for one in spans if (one["owner"], one["span"]) == (arm, "soak"))
    assert (soak["readings"], soak["energy_readings"], soak["memory_bytes"]) == (2, 1, 12)
    assert gap["seconds"] > 0


@pytest.mark.parametrize("damage", ["cut short", "of another program"])
def test_damaged_readings_lose_their_figures_and_not_the_report(stored: StoredRun, damage: str) -> None:
    path = keep(stored, readings())
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        pq.write_table(pa.table({"t_ns": [1]}), path)
    (soak, _) = first(stored)
    assert soak.nulls["power_w"].startswith(f"the readings of its block cannot be read: {path}: holds no readings")
    assert summary.summarise(stored)["contrasts"]
    for look in (telemetry_show.document, lambda run: chart.block_chart(run, run.blocks[0])):
        with pytest.raises(InputError, match="holds no readings of bench"):
            look(stored)


def test_readings_of_an_older_file_lack_a_column_and_nothing_else(stored: StoredRun) -> None:
    path = keep(stored, readings())
    facts = pq.read_schema(path).metadata
    pq.write_table(pq.read_table(path).drop_columns(["ecc_corrected"]).replace_schema_metadata(facts), path)
    assert first(stored)[0].figures["gpu_util_percent"] == 90


def test_of_a_gpu_in_parts_every_line_is_named_and_drawn_apart(stored: StoredRun) -> None:
    parts = ["MIG-0123456789-aa", "MIG-0123456789-bb"]
    for outcome, uuid in zip(stored.blocks[0]["arms"].values(), parts, strict=True):
        outcome["gpu"] = {"uuid": uuid}
    keep(stored, [row for uuid in [GPU, *parts] for row in readings(uuid, power_instant_mw=1, sm_clock_mhz=1)])
    drawn = chart.block_chart(stored, stored.blocks[0])
    panels = {panel["layer"][1]["encoding"]["y"]["title"]: panel["layer"][1] for panel in drawn["vconcat"]}
    power = {one["of"] for one in panels["GPU power, W"]["data"]["values"]}
    assert power == {f"{kind} (MIG-0123456789-{part})" for kind in ("average of 1 s", "instant") for part in "ab"}
    color, dash = (panels["GPU power, W"]["encoding"][name]["scale"] for name in ("color", "strokeDash"))
    looks = [(color["range"][color["domain"].index(one)], *dash["range"][dash["domain"].index(one)]) for one in power]
    assert len(set(looks)) == len(power), "no two look alike"


@pytest.mark.parametrize(
    ("ids", "short"),
    [
        (["GPU-1234567890"], ["GPU-1234"]),
        (["GPU-123456-a", "GPU-123456-b"], ["GPU-123456-a", "GPU-123456-b"]),
        (["MIG-GPU-1/1/0", "MIG-GPU-1/2/0"], ["MIG-GPU-1/1", "MIG-GPU-1/2"]),
        (["a", "a"], ["a", "a"]),
    ],
)
def test_an_id_is_cut_as_short_as_it_is_told_from_others(ids: list[str], short: list[str]) -> None:
    named = text.short_names(ids)
    assert [named[one] for one in ids] == short


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


def test_without_what_draws_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(InputError, match=r"to draw takes vl-convert-python; pip install vl-convert-python, or write"):
        chart.write({}, tmp_path / "a.svg")
    chart.write({}, tmp_path / "a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_picture_of_another_kind_is_refused(stored: StoredRun, tmp_path: Path) -> None:
    keep(stored, readings())
    drawn = chart.block_chart(stored, chart.choose(stored))
    with pytest.raises(InputError, match="end the name with one of them"):
        chart.write(drawn, tmp_path / "c.gif")
    titles = [panel["layer"][1]["encoding"]["y"]["title"] for panel in drawn["vconcat"]]
    assert titles == ["GPU utilization, %", "GPU memory, GiB", "GPU power, W"], "no arm was read, and no clock"
    assert "REPLAY" in drawn["title"]["subtitle"][0]
