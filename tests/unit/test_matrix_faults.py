"""The one sentence that every broken matrix gets, with its file and line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import InputError
from bench.matrix import source
from bench.matrix.matrix import Matrix, load
from workloads.contract import AXES

Load = Callable[..., Matrix]
CNN = "axes: {workload: [mnist_cnn]}\n"
LINEAR = "axes: {workload: [linear_regression]}\n"


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
    (one,) = read(b"\xef\xbb\xbf" + CNN.encode()).comparisons
    assert one.id == "mnist_cnn-train-eager-b64"


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
