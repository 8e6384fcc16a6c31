"""What a matrix means, and the one sentence that every broken one gets."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from bench.errors import InputError
from bench.matrix import matrix, source
from bench.matrix.comparison import compare_cells
from bench.matrix.matrix import Budget, Matrix, Telemetry, load
from bench.matrix.model import COMPARABLE
from bench.planning import schedule
from workloads.contract import AXES, Cell, Named

Load = Callable[..., Matrix]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.chdir(tmp_path)

    def write_and_load(text: str | bytes, **options: bool) -> Matrix:
        Path("m.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return load("m.yaml", **options)

    return write_and_load


def ids(found: Matrix) -> list[str]:
    return [comparison.id for comparison in found.comparisons]


def arms(found: Matrix) -> list[list[str]]:
    return [[arm.id for arm in comparison.arms] for comparison in found.comparisons]


LINEAR = "axes: {workload: [linear_regression]}\n"
CNN = "axes: {workload: [mnist_cnn]}\n"

# ── what a matrix means ───────────────────────────────────────────────────────────────────────────────────────────────


def test_quick_is_two_workloads_as_people_run_them_with_eight_blocks() -> None:
    quick = load("quick")
    assert ids(quick) == ["linear_regression-train-b64", "mnist_cnn-train-b64"]
    assert arms(quick) == [["tensorflow-graph", "tensorflow-eager", "pytorch-eager"]] * 2
    assert {one.baseline for one in quick.comparisons} == {"tensorflow-graph"}
    assert quick.budget.blocks == 8
    assert quick.budget.half_width == 0.05
    assert quick.notes == ()
    assert quick.source == "quick.yaml"


def test_default_covers_both_phases_of_both_workloads_and_pytorch_compiled_too() -> None:
    default = load("default")
    covered = {(one.arms[0].cell.workload.name, one.arms[0].cell.phase) for one in default.comparisons}
    assert len(covered) == len(default.comparisons) == 4
    assert arms(default) == [["tensorflow-graph", "tensorflow-eager", "pytorch-eager", "pytorch-compiled"]] * 4
    assert {one.baseline for one in default.comparisons} == {"tensorflow-graph"}


@pytest.mark.parametrize("name", matrix.built_in())
def test_no_built_in_matrix_has_too_few_blocks_to_claim_anything(name: str) -> None:
    found = load(name)
    family = sum(len(one.contrasts) for one in found.comparisons)
    assert schedule.too_few_blocks(found.budget, family) is None


def test_absent_axes_take_their_defaults(read: Load) -> None:
    found = read(CNN)
    (comparison,) = found.comparisons
    workload = Named.of("mnist_cnn", {"learning_rate": 0.02, "momentum": 0.9, "evaluate_steps": 200})
    assert [arm.cell for arm in comparison.arms] == [
        Cell(workload=workload, framework=Named("tensorflow")),
        Cell(workload=workload, framework=Named("pytorch")),
    ]
    assert comparison.baseline == "tensorflow"
    assert found.budget == Budget()
    assert (found.name, found.seed, found.compare) == ("m", 0, ("framework",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", Telemetry()), ("{soak: auto}", Telemetry()), ("{soak: off}", Telemetry(soak_s=0.0)),
     ("{hz: 100, soak: 2s}", Telemetry(hz=100.0, soak_s=2.0)), ("{hz: 0.5, soak: 1.5}", Telemetry(hz=0.5, soak_s=1.5))],
)  # fmt: skip
def test_what_is_read_beside_a_run_is_kept_with_it(read: Load, text: str, expected: Telemetry) -> None:
    found = read(f"{CNN}telemetry: {text}" if text else CNN)
    assert found.telemetry == expected
    resolved = json.loads(json.dumps(found.resolved()))
    assert Matrix.from_resolved(resolved).telemetry == expected
    assert Matrix.from_resolved({**resolved, "telemetry": {}}).telemetry == Telemetry(), "a run of an earlier version"


def test_the_agreed_example_is_read_as_it_is_meant(read: Load) -> None:
    found = read("""
name: cnn-modes
compare: framework
baseline: tensorflow
axes:
  workload: [{name: linear_regression, n: 4096, d: 256}, mnist_cnn]
  framework: [tensorflow, {name: pytorch, version: 2.13.0}]
  phase: [train, infer]
  mode: [eager, compiled]
  batch_size: [32, 256]
  precision: [fp32]
  device: [auto]
exclude:
  - {workload: linear_regression, mode: compiled}
include:
  - {workload: mnist_cnn, framework: tensorflow, mode: graph, phase: train, batch_size: 32}
budget: {half_width: 0.02, per_comparison: 5m, total: 1h}
threads: 1
seed: 0
""")
    assert len(found.comparisons) == 12
    assert all(names == ["tensorflow", "pytorch-2.13.0"] for names in arms(found))
    assert found.comparisons[0].arms[0].cell.workload.get("d") == 256
    (note,) = found.notes
    assert "not measured" in note
    assert "mnist_cnn tensorflow train graph b32" in note


def test_arms_of_a_comparison_differ_on_the_compared_axes_alone(read: Load) -> None:
    found = read(
        "compare: [framework, mode]\naxes: {workload: [mnist_cnn], mode: [eager, compiled], batch_size: [1, 2]}"
    )
    assert ids(found) == ["mnist_cnn-train-b1", "mnist_cnn-train-b2"]
    for comparison in found.comparisons:
        for axis in AXES:
            values = {getattr(arm.cell, axis) for arm in comparison.arms}
            assert len(values) == (2 if axis in {"framework", "mode"} else 1), axis


def test_a_contrast_is_the_baseline_against_each_other_arm(read: Load) -> None:
    found = read(
        "compare: [framework, mode]\nbaseline: pytorch-eager\naxes: {workload: [mnist_cnn], mode: [eager, graph]}"
    )
    (comparison,) = found.comparisons
    assert [(base.id, arm.id) for base, arm in comparison.contrasts] == [
        ("pytorch-eager", "tensorflow-eager"),
        ("pytorch-eager", "tensorflow-graph"),
    ]


def test_graph_mode_is_dropped_for_pytorch_with_a_note(read: Load) -> None:
    found = read("compare: [framework, mode]\naxes: {workload: [mnist_cnn], mode: [eager, graph]}")
    assert arms(found) == [["tensorflow-eager", "tensorflow-graph", "pytorch-eager"]]
    assert found.notes == ("mode graph exists for tensorflow only: mnist_cnn pytorch train graph b64 left out",)


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        ("pytorch", "pytorch-eager"),
        ("{framework: pytorch}", "pytorch-eager"),
        ("{framework: tensorflow, mode: graph}", "tensorflow-graph"),
        ("tensorflow-graph", "tensorflow-graph"),
        ("{framework: {name: pytorch}, mode: eager}", "pytorch-eager"),
    ],
)
def test_a_baseline_may_be_a_value_an_arm_or_a_mapping(read: Load, baseline: str, expected: str) -> None:
    compare = "framework" if baseline == "pytorch" else "[framework, mode]"
    modes = "[eager]" if baseline == "pytorch" else "[eager, graph]"
    found = read(f"compare: {compare}\nbaseline: {baseline}\naxes: {{workload: [mnist_cnn], mode: {modes}}}")
    assert found.comparisons[0].baseline == (expected if compare != "framework" else "pytorch")


def test_two_versions_of_one_framework_can_be_compared(read: Load) -> None:
    found = read("""
baseline: {name: pytorch, version: 2.12.1}
axes:
  workload: [mnist_cnn]
  framework: [{name: pytorch, version: 2.13.0}, {name: pytorch, version: 2.12.1}]
""")
    assert arms(found) == [["pytorch-2.13.0", "pytorch-2.12.1"]]
    assert found.comparisons[0].baseline == "pytorch-2.12.1"


def test_a_baseline_that_fits_two_arms_is_refused_with_their_names(read: Load) -> None:
    two = "[{name: pytorch, version: 2.13.0}, {name: pytorch, version: 2.12.1}]"
    with pytest.raises(
        InputError, match=r"m\.yaml:2: .* fits more than one .* choose one of pytorch-2\.13\.0, pytorch-2"
    ):
        read(f"axes: {{workload: [mnist_cnn], framework: {two}}}\nbaseline: pytorch")


def test_a_numeric_axis_can_be_compared_and_be_the_baseline(read: Load) -> None:
    found = read("compare: threads\nbaseline: 2\naxes: {workload: [mnist_cnn], framework: [pytorch], threads: [1, 2]}")
    assert arms(found) == [["t1", "t2"]]
    assert found.comparisons[0].baseline == "t2"


def test_the_first_value_is_the_baseline_where_tensorflow_cannot_be(read: Load) -> None:
    found = read("compare: mode\naxes: {workload: [mnist_cnn], mode: [compiled, eager]}")
    assert [comparison.baseline for comparison in found.comparisons] == ["compiled", "compiled"]
    assert ids(found) == ["mnist_cnn-tensorflow-train-b64", "mnist_cnn-pytorch-train-b64"]


def test_ids_spell_out_what_varies_and_are_unique(read: Load) -> None:
    found = read("""
axes:
  workload:
    - {name: linear_regression, preset: classic}
    - {name: linear_regression, d: 8}
    - {name: linear_regression, d: 9}
  device: [cpu, auto]
""")
    assert ids(found) == [
        "linear_regression-classic-d1-train-eager-b5-cpu",
        "linear_regression-classic-d1-train-eager-b5-auto",
        "linear_regression-standard-d8-train-eager-b64-cpu",
        "linear_regression-standard-d8-train-eager-b64-auto",
        "linear_regression-standard-d9-train-eager-b64-cpu",
        "linear_regression-standard-d9-train-eager-b64-auto",
    ]


def test_names_that_would_collide_are_numbered(read: Load) -> None:
    found = read("""
axes:
  workload: [mnist_cnn]
  framework: [{name: pytorch, image: "one/torch:1"}, {name: pytorch, image: "two/torch:1"}]
""")
    assert arms(found) == [["pytorch-torch_1", "pytorch-torch_1-2"]]


def test_a_data_set_smaller_than_the_batch_is_one_full_batch_and_cells_merge(read: Load) -> None:
    found = read("axes: {workload: [{name: linear_regression, preset: classic}], batch_size: [32, 256]}")
    assert [arm.cell.batch_size for arm in found.comparisons[0].arms] == [5, 5]
    assert len(found.comparisons) == 1
    assert found.notes == (
        "linear_regression has 5 examples: batch size 32 is run as 5",
        "linear_regression has 5 examples: batch size 256 is run as 5",
    )


def test_gradient_descent_takes_all_examples_and_the_note_says_why(read: Load) -> None:
    found = read("axes: {workload: [{name: svm, n: 100, optimizer: gradient_descent}], batch_size: [64]}")
    assert found.notes == ("svm takes all 100 examples a step by gradient descent: batch size 64 is run as 100",)


def test_scikit_learn_is_left_out_where_it_would_not_learn(read: Load) -> None:
    found = read(
        "baseline: tensorflow\naxes: {workload: [{name: linear_regression, learning_rate: 0}], "
        "framework: [tensorflow, pytorch, sklearn]}"
    )
    assert arms(found) == [["tensorflow", "pytorch"]]
    (note,) = found.notes
    assert note.startswith("sklearn cannot learn at a learning rate of 0: linear_regression sklearn train eager")


def test_the_schedule_is_lockstep_unless_the_matrix_says_serial(read: Load) -> None:
    assert read(CNN).schedule == "lockstep"
    serial = read(f"schedule: serial\n{CNN}")
    assert serial.schedule == "serial"
    assert Matrix.from_resolved(json.loads(json.dumps(serial.resolved()))) == serial
    older = {key: value for key, value in serial.resolved().items() if key != "schedule"}
    assert Matrix.from_resolved(older).schedule == "lockstep"
    assert serial.with_options(seed=5, launcher="local").schedule == "serial"


def test_top_level_threads_are_the_axis(read: Load) -> None:
    assert {cell.threads for cell in read(f"threads: 2\n{CNN}").cells} == {2}


def test_exclude_by_name_covers_every_variant_and_by_parameters_only_one(read: Load) -> None:
    workloads = "[{name: linear_regression, n: 128}, {name: linear_regression, n: 256}]"
    two = f"axes: {{workload: {workloads}, phase: [train, infer]}}\n"
    by_name = read(f"{two}exclude: [{{workload: linear_regression, phase: infer}}]")
    assert len(by_name.comparisons) == 2
    by_parameter = read(f"{two}exclude: [{{workload: {{name: linear_regression, n: 128}}, phase: infer}}]")
    assert len(by_parameter.comparisons) == 3


def test_an_entry_of_include_is_completed_from_the_axes(read: Load) -> None:
    found = read("axes: {workload: [mnist_cnn], batch_size: [32, 64], phase: [infer]}\ninclude: [{batch_size: 1024}]")
    assert ids(found)[-1] == "mnist_cnn-infer-eager-b1024"
    assert arms(found)[-1] == ["tensorflow", "pytorch"]


def test_an_included_cell_without_partner_is_noted_and_not_measured(read: Load) -> None:
    found = read(f"{CNN}include: [{{framework: tensorflow, mode: graph}}]")
    assert len(found.cells) == 3
    assert ids(found) == ["mnist_cnn-train-eager-b64"]
    assert "mnist_cnn tensorflow train graph b64" in found.notes[0]


def test_numbers_and_words_are_read_after_yaml_1_2(read: Load) -> None:
    found = read("name: 'yes'\naxes: {workload: [{name: mnist_cnn, learning_rate: 1e-3}], batch_size: [010]}")
    assert found.cells[0].workload.get("learning_rate") == 0.001
    assert found.cells[0].batch_size == 10
    assert found.name == "yes"


def test_small_aliases_are_allowed(read: Load) -> None:
    found = read(
        "axes: {workload: [&cnn mnist_cnn], mode: [eager, compiled]}\nexclude: [{workload: *cnn, mode: compiled}]"
    )
    assert len(found.comparisons) == 1


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90), ("5m", 300), ("1h", 3600), ("1.5h", 5400), ("250ms", 0.25), (7, 7), (0.5, 0.5)]
)
def test_durations_are_read(text: str | float, expected: float) -> None:
    assert matrix.seconds(text) == expected


@pytest.mark.parametrize("text", ["", "5", "5 min", "m", "-5s", "0s", "1e3s", "800h", 0, -1, float("nan"), True, None])
def test_what_is_no_duration_is_refused_with_its_value(text: Any) -> None:
    with pytest.raises(ValueError, match=r"duration; write"):
        matrix.seconds(text)


# ── options, and the record ───────────────────────────────────────────────────────────────────────────────────────────


def test_options_replace_what_the_file_says() -> None:
    quick = load("quick")
    changed = quick.with_options(device="cpu", launcher="local", seed=7, budget_total_s=60)
    assert {(cell.device, cell.launcher) for cell in changed.cells} == {("cpu", "local")}
    assert {arm.cell.device for one in changed.comparisons for arm in one.arms} == {"cpu"}
    assert (changed.seed, changed.budget.total_s, changed.budget.half_width) == (7, 60, 0.05)
    assert ids(changed) == ids(quick)
    assert quick.with_options() == quick


def test_an_option_merges_cells_that_it_makes_equal(read: Load) -> None:
    found = read("axes: {workload: [mnist_cnn], device: [auto, cpu]}")
    assert len(found.comparisons) == 2
    assert ids(found.with_options(device="cpu")) == ["mnist_cnn-train-eager-b64"]


def test_an_option_that_takes_the_difference_away_is_refused(read: Load) -> None:
    found = read("compare: launcher\naxes: {workload: [mnist_cnn], framework: [pytorch], launcher: [docker, local]}")
    with pytest.raises(InputError, match=r"m\.yaml with --launcher local: no two cells differ on launcher alone"):
        found.with_options(launcher="local")


@pytest.mark.parametrize("name", ["quick", "default"])
def test_the_record_of_a_matrix_gives_the_same_matrix_back(name: str) -> None:
    found = load(name)
    assert Matrix.from_resolved(json.loads(json.dumps(found.resolved()))) == found


def valid(schema: Mapping[str, Any], value: Any, root: Mapping[str, Any]) -> bool:
    """As much of JSON Schema as the matrix's schema uses."""
    if "$ref" in schema:
        target = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
        return valid(target, value, root) and valid({k: v for k, v in schema.items() if k != "$ref"}, value, root)
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None)}
    kind = schema.get("type")
    checks = [
        "anyOf" not in schema or any(valid(one, value, root) for one in schema["anyOf"]),
        kind is None or (isinstance(value, kinds[kind]) and not isinstance(value, bool)),
        "enum" not in schema or value in schema["enum"],
    ]
    if isinstance(value, int | float):
        checks.append(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    if isinstance(value, list):
        checks.append(len(value) >= schema.get("minItems", 0))
        checks.extend(valid(schema.get("items", {}), one, root) for one in value)
    if isinstance(value, dict):
        known = schema.get("properties", {})
        checks.append(set(schema.get("required", ())) <= set(value))
        checks.append(schema.get("additionalProperties") is not False or set(value) <= set(known))
        checks.extend(valid(known[key], one, root) for key, one in value.items() if key in known)
    return all(checks)


@pytest.mark.parametrize("name", ["quick", "default"])
def test_built_in_matrices_fit_the_json_schema(name: str) -> None:
    schema = matrix.schema()
    text = (Path(matrix.__file__).parent / f"{name}.yaml").read_text(encoding="utf-8")
    assert valid(schema, YAML(typ="safe", pure=True).load(text), schema)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"axes": {"workload": ["mnist_cnn"], "framwork": ["tensorflow"]}},
        {"axes": {"workload": []}},
        {"axes": {"workload": ["mnits_cnn"]}},
        {"axes": {"workload": ["mnist_cnn"], "precision": ["fp8"]}},
        {"axes": {"workload": ["mnist_cnn"], "batch_size": [0]}},
        {"axes": {"workload": ["mnist_cnn"]}, "compare": "workload"},
        {"axes": {"workload": ["mnist_cnn"]}, "seeds": 1},
    ],
)
def test_the_json_schema_refuses_what_the_program_refuses(broken: dict[str, Any], read: Load) -> None:
    schema = matrix.schema()
    assert not valid(schema, broken, schema)
    with pytest.raises(InputError):
        read(json.dumps(broken))


def test_the_json_schema_describes_every_key() -> None:
    schema = matrix.schema()
    json.dumps(schema, allow_nan=False)
    for axis in AXES:
        assert schema["$defs"]["Axes"]["properties"][axis]["description"], axis
    assert schema["properties"]["compare"]["description"]


# ── one sentence for everything that can be wrong ─────────────────────────────────────────────────────────────────────


def sentence(read: Load, text: str | bytes) -> str:
    with pytest.raises(InputError) as caught:
        read(text)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


WRONG = {
    # keys
    "axes: {framwork: [tensorflow]}": '1: axis "framwork" is unknown; did you mean "framework"?',
    f"{CNN}budgte: {{}}": '2: key "budgte" is unknown; did you mean "budget"?',
    f"{CNN}budget:\n  half_with: 1": '3: budget key "half_with" is unknown; did you mean "half_width"?',
    f"framework: [pytorch]\n{CNN}": '1: key "framework" is an axis; write it under axes',
    f"{CNN}exclude:\n- {{phse: train}}": '3: axis "phse" is unknown; did you mean "phase"?',
    "axes:\n  workload:\n  - {name: mnist_cnn, momentm: 1}": '3: mnist_cnn parameter "momentm" is unknown;',
    "axes:\n  workload: [mnist_cnn]\n  framework: [{name: pytorch, vers: 1}]": '3: framework key "vers" is unknown;',
    "axes: {}": '1: axis "workload" is missing',
    "name: x": '1: key "axes" is missing',
    "axes: {workload: [{nam: mnist_cnn}]}": '1: workload key "name" is missing',
    "axes: {workload: [mnist_cnn]}\naxes: {}": '2: key "axes" is given twice, first on line 1',
    "axes:\n  workload: [mnist_cnn]\n  mode: [eager]\n  mode: [graph]": '4: key "mode" is given twice, first on line 3',
    "axes:\n  workload:\n  - name: mnist_cnn\n    momentum: 0\n    momentum: 0": '5: key "momentum" is given twice',
    # values
    "axes: {workload: [mnist_cnn], precision: [fp8]}": '1: precision "fp8" is unknown; choose fp32',
    "axes:\n  workload: [mnits_cnn]": '2: workload "mnits_cnn" is unknown; did you mean "mnist_cnn"?',
    "axes:\n  workload: [mnist_cnn]\n  phase:\n  - train\n  - tran": '5: phase "tran" is unknown; did you mean "train"',
    "axes: {workload: [mnist_cnn], framework: [jax]}": "choose tensorflow, pytorch, sklearn or numpy",
    "axes: {workload: [mnist_cnn], launcher: [doker]}": 'launcher "doker" is unknown; did you mean "docker"?',
    "axes: {workload: [mnist_cnn], mode: [3]}": "mode 3 is unknown",
    "axes: {workload: [mnist_cnn], mode: [null]}": "mode null is unknown",
    "axes: {workload: [mnist_cnn], mode: []}": '1: axis "mode" is empty',
    "axes: {workload: }": '1: "workload" must be a list',
    "axes: {workload: mnist_cnn}": '"workload" must be a list; write [mnist_cnn]',
    "axes: {workload: [mnist_cnn], batch_size: ['32']}": 'batch_size "32" must be a whole number, unquoted',
    "axes: {workload: [mnist_cnn], batch_size: [0]}": "batch_size 0 must be at least 1",
    "axes: {workload: [mnist_cnn], batch_size: [-1]}": "batch_size -1 must be at least 1",
    "axes: {workload: [mnist_cnn], batch_size: [true]}": "batch_size true must be a whole number",
    "axes: {workload: [mnist_cnn], batch_size: [32.0]}": "batch_size 32.0 must be a whole number",
    "axes: {workload: [mnist_cnn], batch_size: [2000000]}": "batch_size 2000000 must be at most 1048576",
    f"axes: {{workload: [mnist_cnn], batch_size: [{'9' * 5000}]}}": "is out of range",
    "axes: {workload: [{name: mnist_cnn, momentum: 1e999}]}": 'number "1e999" is out of range',
    f"threads: '1'\n{CNN}": '1: threads "1" must be a whole number',
    f"threads: 0\n{CNN}": "1: threads 0 must be at least 1",
    "threads: 1\naxes: {workload: [mnist_cnn], threads: [1]}": "1: threads is given here and under axes",
    "axes:\n  workload: [mnist_cnn]\n  batch_size:\n  - 8\n  - 16\n  - 8": "6: batch_size 8 stands on the axis twice",
    "axes: {workload: [linear_regression, {name: linear_regression, n: 4096}]}": "linear_regression, with equal param",
    "axes:\n  workload:\n  - name: mnist_cnn\n    learning_rate: 1\n    momentum: x": "5: mnist_cnn: momentum is 'x'",
    "axes: {workload: [{name: mnist_cnn, momentum: [1]}]}": 'parameter "momentum" must be one value',
    "axes: {workload: [mnist_cnn], framework: [{name: pytorch, version: 2.10}]}": 'put it in quotes: "2.10"',
    "axes: {workload: [mnist_cnn], framework: [{name: pytorch, version: ../x}]}": 'version "../x" must be a release',
    f"{CNN}name: 3": '2: name 3 is read as a number or truth value; put it in quotes: "3"',
    f"{CNN}name: ../x": '2: name "../x" must be at most 64 letters',
    f"{CNN}seed: -1": "2: seed -1 must be at least 0",
    f"{CNN}schedule: parallel": '2: schedule "parallel" is unknown; choose lockstep or serial',
    f"{CNN}budget: 5m": '2: "budget" must be a mapping, not "5m"',
    f"{CNN}budget: {{total: 5 min}}": '2: total "5 min" is not a duration; write 90s, 5m, 1h',
    f"{CNN}budget: {{half_width: 0}}": "2: half_width 0 must be more than 0",
    f"{CNN}budget: {{blocks: 50, max_blocks: 4}}": "2: blocks 50 is more than max_blocks 4",
    f"{CNN}telemetry: {{hertz: 1}}": '2: telemetry key "hertz" is unknown; choose hz or soak',
    f"{CNN}telemetry: {{hz: 101}}": "2: hz 101 must be at most 100",
    f"{CNN}telemetry: {{hz: 0}}": "2: hz 0 must be more than 0",
    f"{CNN}telemetry: {{soak: long}}": '2: soak "long" is no length of a soak; write auto, off or a duration as 3s',
    f"{CNN}telemetry: {{soak: 1h}}": '2: soak "1h" is too long for a soak of every arm in every block; write up to 10m',
    f"{CNN}telemetry: {{soak: 0}}": '2: soak "0" is no length of a soak',
    # comparisons
    "axes:\n  workload: [mnist_cnn]\n  framework: [tensorflow]": "3: no two cells differ on framework alone",
    "axes:\n  workload: [svm]\n  framework: [tensorflow, sklearn]": "3: sklearn trains svm by one example a step only: "
    "svm sklearn train eager b64 left out; so no two cells differ on framework alone",
    "axes: {workload: [mnist_cnn], mode: [graph]}": "mode graph exists for tensorflow only: mnist_cnn pytorch train "
    "graph b64 left out; so no two cells differ on framework alone",
    f"compare: mode\n{CNN}": "no two cells differ on mode alone, so there is nothing to compare; give mode a second",
    f"compare: framwork\n{CNN}": '1: compare "framwork" is unknown; did you mean "framework"?',
    f"compare: workload\n{CNN}": '1: compare "workload" is unknown; choose framework, mode',
    f"compare: []\n{CNN}": '1: key "compare" is empty',
    f"{CNN}baseline: jax": '2: baseline "jax" is none of the arms of mnist_cnn-train-eager-b64; choose one of',
    f"{CNN}baseline: {{mode: eager}}": '2: baseline "mode" is not compared; choose framework',
    f"{CNN}baseline: [tensorflow]": "2: baseline \"['tensorflow']\" is no value of the compared axis",
    f"compare: [mode, mode]\n{CNN}": '1: compare names "mode" twice',
    # exclude and include
    f"{CNN}exclude:\n- {{workload: mnist_cnn}}": "2: exclude leaves no cell",
    f"{CNN}exclude:\n- phase: train\n  mode: compiled": "4: exclude matches no cell: mode compiled is not on its axis",
    f"{CNN}exclude:\n- {{}}": "3: this entry of exclude is empty",
    f"{CNN}exclude: [{{workload: {{name: linear_regression, N: 1}}}}]": 'parameter "N" is unknown',
    f"{CNN}exclude: [{{mode: [eager]}}]": "mode […] is unknown",
    f"{CNN}include:\n- {{mode: eager}}": "3: this entry of include is in the matrix already",
    f"{CNN}include:\n- framework: pytorch\n  mode: graph": "4: mode graph exists for tensorflow only; choose eager or",
    "axes: {workload: [mnist_cnn], framework: [pytorch], mode: [graph]}": "mode graph exists for tensorflow only, so",
    # YAML
    "": "1: the file is empty",
    "# nothing\n": "1: the file is empty",
    "[1]": "1: the top level must be a mapping",
    "hello": "1: the top level must be a mapping",
    "axes:": '1: "axes" must be a mapping, not (nothing)',
    "axes: [": "1: this is not valid YAML",
    "axes:\n\tworkload: [mnist_cnn]": "2: this is not valid YAML: found character '\\t'",
    f"{CNN}---\n{CNN}": "2: a second document begins here",
    "axes: !!python/object/apply:os.system [id]": '1: tag "!!python/object/apply:os.system" is not allowed',
    "axes: {workload: [!!str mnist_cnn]}": '1: tag "!!str" is not allowed',
    "a: &a {b: 1}\nc:\n  <<: *a": "3: merge key << is not supported",
    "a: &a [*a]": "1: alias *a stands for nothing before it",
    "? [1]\n: 2": "1: a key must be a word",
    "name: x\n\nx: \0": "3: control character U+0000 is not allowed",
}


@pytest.mark.parametrize(("text", "expected"), WRONG.items())
def test_a_broken_matrix_is_one_sentence_with_file_and_line(read: Load, text: str, expected: str) -> None:
    message = sentence(read, text)
    assert message.startswith("m.yaml:")
    assert expected in message


def test_what_is_not_utf8_is_refused_with_its_line(read: Load) -> None:
    assert sentence(read, b"name: x\nseed: 1\nbad: \xff") == (
        "m.yaml:3: byte 0xff is not UTF-8; save the file as UTF-8"
    )
    assert "is not UTF-8" in sentence(read, CNN.encode("utf-16"))


def test_a_byte_order_mark_is_harmless(read: Load) -> None:
    assert ids(read(b"\xef\xbb\xbf" + CNN.encode())) == ["mnist_cnn-train-eager-b64"]


BOMBS = {
    "aliases": "\n".join(["a0: &a0 [1,1,1,1,1,1,1,1,1]"]
                         + [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]),
    "sequences": "[" * 200_000,
    "mappings": "{a: " * 100_000,
    "keys": "\n".join(f"k{n}: 1" for n in range(100_000)),
    "bytes": "x" * (source.SIZE_LIMIT_BYTES + 1),
    "values": f"axes: {{workload: [mnist_cnn], batch_size: [{','.join(map(str, range(1, 100_000)))}]}}",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_within_seconds(read: Load, bomb: str) -> None:
    began = time.process_time()
    assert "m.yaml" in sentence(read, BOMBS[bomb])
    assert time.process_time() - began < 5


def test_more_than_10000_cells_need_yes(read: Load) -> None:
    sizes = ", ".join(str(size) for size in range(1, 72))
    text = f"axes:\n  workload: [linear_regression]\n  batch_size: [{sizes}]\n  threads: [{sizes}]"
    assert sentence(read, text) == (
        "m.yaml:1: the matrix spans 10082 cells, more than 10000; shorten an axis, or add --yes"
    )
    assert len(read(text, yes=True).cells) == 10_082


def test_no_more_than_a_million_cells_even_with_yes_and_none_is_made(read: Load) -> None:
    sizes = ", ".join(str(size) for size in range(1, 1001))
    text = f"axes: {{workload: [linear_regression], batch_size: [{sizes}], threads: [{sizes}]}}"
    began = time.process_time()
    with pytest.raises(InputError, match="spans 2000000 cells, more than 1000000, the most there can be"):
        read(text, yes=True)
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("quikc", 'matrix "quikc" is neither a file nor built in; did you mean "quick"?'),
        ("absent.yaml", '"absent.yaml" is neither a file nor built in; choose classics, containers, default, gpu'),
        ("", 'matrix "" is neither a file nor built in; choose classics, containers, default, gpu, quick or workloads'),
        ("a\0b", "is neither a file nor built in"),
        ("x" * 9999, "is neither a file nor built in"),
        (".", ".: this is a folder; name a YAML file in it"),
        ("/dev/zero", "/dev/zero: the file is larger than 1048576 bytes"),
    ],
)
def test_what_is_no_matrix_file_is_one_sentence(name: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        load(name)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def outcome_of(path: str) -> Matrix | str:
    try:
        return load(path)
    except InputError as error:
        return str(error)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([*AXES, "mnist_cnn", "linear_regression", "tensorflow", "pytorch", "train", "eager", "graph"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from([*AXES, "axes", "name", "compare", "baseline", "include", "exclude", "budget",
                                       "seed", "total", "n", "preset", "version"]), inner, max_size=4),
    max_leaves=12,
))  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_nothing_but_a_matrix_or_one_sentence_comes_out(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    workload = {"workload": ["mnist_cnn"]}
    keys = value if isinstance(value, dict) else {"baseline": value}
    for plain in (value, {"axes": value}, {"axes": workload, **keys}, {"axes": {**workload, **keys}}):
        path.write_text(json.dumps(plain), encoding="utf-8")
        outcome = outcome_of(str(path))
        if isinstance(outcome, str):
            assert "\n" not in outcome
            assert str(path) in outcome
        else:
            assert outcome.comparisons


# ── the pure part, from literals ──────────────────────────────────────────────────────────────────────────────────────


def test_every_cell_is_in_one_comparison_or_named_as_alone() -> None:
    cells = [
        Cell(workload=Named("mnist_cnn"), framework=Named(framework), mode=mode, threads=threads)
        for framework in ("tensorflow", "pytorch")
        for mode in ("eager", "graph", "compiled")
        for threads in (1, 2)
        if not (framework == "pytorch" and mode == "graph")
    ]
    for axis in ("framework", "mode", "threads"):
        comparisons, alone = compare_cells(cells, compare=(axis,), baseline=None)
        measured = [arm.cell for comparison in comparisons for arm in comparison.arms]
        assert sorted(map(repr, [*measured, *alone])) == sorted(map(repr, cells))
        assert len({comparison.id for comparison in comparisons}) == len(comparisons)


def test_axes_on_which_the_work_itself_differs_are_never_compared() -> None:
    assert set(AXES) - set(COMPARABLE) == {"workload", "phase", "batch_size"}
