"""The contract: what goes over the wire comes back the same, and nothing else is taken for a message."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from workloads.contract import (
    AXES,
    HEARTBEAT,
    SCHEMA,
    Answer,
    Cell,
    ContractError,
    Named,
    Request,
    finite,
    pack,
    unpack,
)

values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
plain = st.recursive(values, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)
names = st.builds(Named.of, st.text(min_size=1), st.dictionaries(st.text().filter(lambda key: key != "name"), values))
cells = st.builds(Cell, workload=names, framework=names, batch_size=st.integers(1), threads=st.integers(1))


@given(st.integers(), st.text(), st.dictionaries(st.text(), plain))
def test_a_request_comes_back_the_same(number: int, verb: str, args: dict[str, Any]) -> None:
    request = Request(id=number, verb=verb, args=args)
    line = request.encode()
    assert Request.decode(line) == request
    assert line.count(b"\n") == 1, "one line, whatever is in it"
    assert line.endswith(b"\n")


@given(st.integers(), st.dictionaries(st.text(), plain) | st.none(), st.text())
def test_an_answer_comes_back_the_same(number: int, result: dict[str, Any] | None, error: str) -> None:
    answer = Answer(id=number, result=result) if result is not None else Answer(id=number, error=error, kind="failed")
    assert Answer.decode(answer.encode()) == answer


@given(cells)
def test_a_cell_comes_back_the_same_with_every_axis(cell: Cell) -> None:
    plain = json.loads(json.dumps(cell.to_json()))
    assert Cell.from_json(plain) == cell
    assert set(plain) == set(AXES)


def test_a_name_is_the_same_in_whatever_order_its_parameters_were_written() -> None:
    assert Named.of("a", {"x": 1, "y": 2}) == Named.of("a", {"y": 2, "x": 1})
    assert str(Named.of("a", {"y": 2, "x": 1})) == "a(x=1, y=2)"
    assert str(Named("a")) == "a"
    assert (Named.of("a", {"x": 1}).get("x"), Named("a").get("x", 3)) == (1, 3)


@given(
    arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8]), arrays.array_shapes(min_dims=0, min_side=0)
    )
)
def test_an_array_comes_back_bit_for_bit(array: Any) -> None:
    back = unpack(json.loads(json.dumps(pack(array))))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_an_array_in_any_memory_order_or_byte_order_comes_back_with_the_same_values() -> None:
    array = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    for one in (array.T, array[::-1], array[:, ::2], np.asfortranarray(array), array.astype(">f8")):
        np.testing.assert_array_equal(unpack(pack(one)), one)


@pytest.mark.parametrize("decode", [Request.decode, Answer.decode])
@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"", "not a JSON line: b''"),
        (b"{", "not a JSON line"),
        (b"\xff\xfe", "not a JSON line"),
        (b"null", "schema 'NoneType' is unknown"),
        (b"[]", "schema 'list' is unknown"),
        (b"{}", "schema None is unknown"),
        (b'{"schema": "bench.worker/2"}', f"schema 'bench.worker/2' is unknown; this side speaks {SCHEMA}"),
    ],
)
def test_what_is_no_message_of_this_schema_is_refused_in_one_sentence(decode: Any, line: bytes, sentence: str) -> None:
    with pytest.raises(ContractError) as caught:
        decode(line)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_long_broken_line_is_quoted_only_in_part() -> None:
    with pytest.raises(ContractError) as caught:
        Answer.decode(b"x" * 10**6)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("given", [{"id": 1, "verb": "warm"}, {"id": "one", "verb": "warm", "args": {}}, {"args": {}}])
def test_a_request_without_a_field_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match="a request lacks or misspells a field"):
        Request.decode(json.dumps({"schema": SCHEMA, **given}).encode())


@pytest.mark.parametrize(
    "given",
    [
        {"result": {}, "error": "no", "kind": "failed"},
        {"result": None, "error": None, "kind": None},
        {"result": [1], "error": None, "kind": None},
        {"result": {}},
    ],
)
def test_an_answer_holds_either_a_result_or_an_error(given: dict[str, Any]) -> None:
    with pytest.raises(ContractError):
        Answer.decode(json.dumps({"schema": SCHEMA, "id": 1, **given}).encode())


def test_no_message_holds_a_number_that_json_lacks() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Answer(id=1, result={"loss": float("nan")}).encode()
    assert [finite(value) for value in (1.5, float("nan"), float("inf"))] == [1.5, None, None]


def test_a_heartbeat_is_a_request_that_fits_into_one_atomic_write() -> None:
    assert Request.decode(HEARTBEAT.encode()) == HEARTBEAT
    assert len(HEARTBEAT.encode()) < 512
