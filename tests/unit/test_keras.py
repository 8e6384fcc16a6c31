"""TensorFlow before 2.16 comes with Keras 2, which the twins are not written for: it says so when it is opened."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from workloads.contract import Cell, Named, Unsupported
from workloads.runtime import tensorflow as runtime

CELL = Cell(workload=Named("linear_regression"), framework=Named("tensorflow"), device="cpu")


@pytest.mark.parametrize(("version", "keras", "told"), [("2.15.1", "2.15.0", "2.15"), ("2.12.0", "2.12.0", "2.12")])
def test_a_tensorflow_with_keras_2_is_unsupported_in_a_person_s_words(
    monkeypatch: pytest.MonkeyPatch, version: str, keras: str, told: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(__version__=version))
    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(__version__=keras))
    with pytest.raises(Unsupported) as error:
        runtime.configure(CELL)
    assert str(error.value) == (
        f"TensorFlow {version} comes with Keras {told}; the twins need Keras 3, so TensorFlow 2.16 or newer"
    )


@pytest.mark.parametrize("keras", ["3.0.0", "3.12.0", "3.0.5rc1", "10.1"])
def test_keras_3_and_later_will_do(keras: str) -> None:
    runtime.require_keras_3("2.16.1", keras)
