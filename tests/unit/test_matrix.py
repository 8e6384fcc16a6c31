"""What a matrix means."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.errors import InputError
from bench.matrix import matrix
from bench.matrix.comparison import compare_cells
from bench.matrix.matrix import Budget, Matrix, Telemetry, load
from bench.matrix.model import COMPARABLE
from bench.planning import schedule
from workloads.contract import AXES, Cell, Named

Load = Callable[..., Matrix]


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
