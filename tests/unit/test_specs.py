"""The specs: one seed, the same bytes; what is drawn is what they say; parameters that make no sense are refused."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mnist_files import write_digits
from test_twins import WORKLOADS

from workloads import text
from workloads.contract import Cell, Named
from workloads.trial import POOL_BATCHES, inputs, sha256

# Of 16 batches of 8 at the defaults: another machine, NumPy or Python must draw the same bytes.
BYTES = {
    "conv1d_audio": "121689930f2616dc",
    "linear_regression": "8d4509a9853ddf78",
    "logistic_regression": "7986f76933ca78e1",
    "lstm_text": "bb024617de53bb96",
    "ncf": "313303d3fcd9c091",
    "resnet": "ee139e06d54f2f85",
    "svm": "c4ec6c205a0e37a6",
    "transformer_lm": "05ea2d844f789c34",
}
# What an epoch is of, in examples; text is drawn from random places and has no epochs.
FINITE = {"linear_regression": {"n": 40}, "logistic_regression": {"n": 40}, "svm": {"n": 40}, "mnist_cnn": {},
          "mnist_mlp": {}}  # fmt: skip


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("mnist"))


def spec_of(workload: str) -> Any:
    return importlib.import_module(f"workloads.{workload}.spec")


def drawn(workload: str, mnist: Path, *, seed: int = 0, batch_size: int = 8, count: int = POOL_BATCHES) -> Any:
    spec = spec_of(workload)
    one = Cell(
        workload=Named.of(workload, spec.parameters({})), framework=Named("reference"), batch_size=batch_size
    )  # fmt: skip
    return inputs(spec, one, seed, mnist, count)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_one_seed_gives_the_same_bytes_and_another_gives_others(workload: str, mnist: Path) -> None:
    assert sha256(*drawn(workload, mnist)) == sha256(*drawn(workload, mnist))
    assert sha256(*drawn(workload, mnist)) != sha256(*drawn(workload, mnist, seed=1))
    assert sha256(*drawn(workload, mnist)) != sha256(*drawn(workload, mnist, batch_size=10))


@pytest.mark.parametrize("workload", BYTES)
def test_the_bytes_are_the_same_on_every_machine(workload: str, mnist: Path) -> None:
    assert sha256(*drawn(workload, mnist))[:16] == BYTES[workload]


@pytest.mark.parametrize("workload", FINITE)
def test_more_batches_begin_with_the_same_ones_and_an_epoch_shows_each_example_once(workload: str, mnist: Path) -> None:
    spec = spec_of(workload)
    parameters = spec.parameters(FINITE[workload])
    few, many = (
        spec.batches(parameters, batch_size=8, count=count, seed=0, data=mnist)[spec.INPUT] for count in (3, 12)
    )
    np.testing.assert_array_equal(many[:3], few)
    assert many.shape[:2] == (12, 8), "over two epochs, and no short last batch"
    first_epoch = many[:5].reshape(40, -1)
    assert len(np.unique(first_epoch, axis=0)) == 40
    assert not np.array_equal(many[5:10], many[:5]), "the next epoch has another order"


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("first", [3, 5, 11])
def test_batches_from_a_later_one_on_are_those_of_the_whole_sequence(workload: str, first: int, mnist: Path) -> None:
    """Across the end of an epoch, at it, and after two of them."""
    spec = spec_of(workload)
    parameters = spec.parameters(FINITE.get(workload, {}))
    given = {"batch_size": 8, "seed": 0, "data": mnist}
    whole = spec.batches(parameters, count=first + 4, **given)
    part = spec.batches(parameters, count=4, first=first, **given)
    for name, array in whole.items():
        np.testing.assert_array_equal(part[name], array[first:])


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_real_array_is_float32_and_every_whole_one_int64(workload: str, mnist: Path) -> None:
    weights, batches = drawn(workload, mnist, count=2)
    assert {array.dtype for array in weights.values()} == {np.dtype("float32")}
    assert {array.dtype for array in batches.values()} <= {np.dtype("float32"), np.dtype("int64")}
    assert {array.shape[:2] for array in batches.values()} == {(2, 8)}


@pytest.mark.parametrize("workload", WORKLOADS)
def test_training_costs_more_than_inference_and_twice_the_batch_costs_twice(workload: str) -> None:
    spec = spec_of(workload)
    parameters = spec.parameters({})
    infer, train, double = (
        spec.flops(parameters, batch_size=size, phase=phase)
        for size, phase in ((8, "infer"), (8, "train"), (16, "train"))
    )
    assert 2 * infer <= train <= 3 * infer
    assert double == 2 * train


def test_a_resnet_of_depth_20_has_the_multiply_adds_and_the_weights_of_its_paper() -> None:
    """He et al. 2016, table 6: 0.27 million weights; 41 million multiply-adds, by their own count of layers."""
    spec = spec_of("resnet")
    parameters = spec.parameters({"depth": 20})
    weights = spec.initial_weights(parameters, 0)
    assert sum(array.size for name, array in weights.items() if "moving" not in name) == pytest.approx(0.27e6, rel=0.02)
    assert spec.flops(parameters, batch_size=1, phase="infer") / 2 == pytest.approx(40.8e6, rel=0.02)


@pytest.mark.parametrize("workload", ["linear_regression", "logistic_regression", "svm"])
def test_gradient_descent_takes_every_example_in_their_order_at_every_step(workload: str) -> None:
    spec = spec_of(workload)
    parameters = spec.parameters({"n": 50, "d": 2, "optimizer": "gradient_descent"})
    assert spec.batch_size(parameters, 8) == 50
    batches = spec.batches(parameters, batch_size=50, count=3, seed=0, data=None)
    features, targets = spec.examples(parameters, 0)
    for i in range(3):
        np.testing.assert_array_equal(batches[spec.INPUT][i], features)
        np.testing.assert_array_equal(batches[spec.TARGET][i], targets)


def test_no_data_is_one_sentence_with_the_remedy() -> None:
    for workload in ("mnist_cnn", "mnist_mlp"):
        with pytest.raises(ValueError, match="this workload needs the MNIST files; run `bench data fetch`"):
            spec_of(workload).batches({}, batch_size=2, count=1, seed=0, data=None)


# Text


def test_the_text_is_of_words_of_the_lexicon_as_often_as_their_law_says() -> None:
    lexicon = text.words()
    assert len(set(lexicon)) == text.WORDS
    places = text.characters(0, 2, text.TRAIN_CHARACTERS)
    assert len(places) == text.TRAIN_CHARACTERS
    assert 0 <= places.min() < places.max() < len(text.ALPHABET)
    written = "".join(text.ALPHABET[place] for place in places).split()[:-1]
    assert set(written) <= set(lexicon)
    seen = np.array([written.count(word) for word in lexicon]) / len(written)
    np.testing.assert_allclose(seen, text.frequencies(), atol=0.004)


def test_the_entropy_is_that_of_the_words_over_their_length() -> None:
    places = text.characters(0, 2, text.TRAIN_CHARACTERS)
    written = "".join(text.ALPHABET[place] for place in places).split()[:-1]
    log_likelihood = sum(np.log(text.frequencies()[text.words().index(word)]) for word in written)
    assert -log_likelihood / sum(len(word) + 1 for word in written) == pytest.approx(text.entropy(), rel=0.01)


def test_what_is_to_be_predicted_is_the_next_character() -> None:
    batches = text.batches(length=7, batch_size=3, count=2, seed=1)
    assert batches[text.INPUT].shape == (2, 3, 7)
    np.testing.assert_array_equal(batches[text.INPUT][..., 1:], batches[text.TARGET][..., :-1])


# Parameters


@pytest.mark.parametrize(
    ("workload", "given", "sentence"),
    [
        ("linear_regression", {"preset": "modern"}, "preset 'modern' is unknown; choose standard or classic"),
        ("linear_regression", {"n": 0}, "n is 0; it must be a whole number from 1 to 10000000"),
        ("linear_regression", {"n": True}, "n is True"),
        ("linear_regression", {"d": 2.5}, "d is 2.5"),
        ("linear_regression", {"noise": -1}, "noise is -1; it must be a number from 0 to below 1e+06"),
        ("linear_regression", {"learning_rate": float("nan")}, "learning_rate is nan"),
        ("linear_regression", {"preset": "classic", "n": 7}, "the preset classic has n = 5 and d = 1"),
        ("linear_regression", {"optimizer": "adam"}, "optimizer 'adam' is unknown; choose sgd or gradient_descent"),
        ("logistic_regression", {"folds": 1}, "folds is 1; it must be 0 for no cross-validation, or from 2 to n = 4"),
        ("logistic_regression", {"preset": "classic", "d": 7}, "the preset classic has n = 20 and d = 1"),
        ("svm", {"c": "hard"}, "c is 'hard'; it must be a number from 0 to below 1e+06"),
        ("svm", {"preset": "classic", "folds": 7}, "folds is 7; it must be 0 for no cross-validation, or from 2"),
        ("mnist_cnn", {"momentum": "high"}, "momentum is 'high'; it must be a number from 0 to below 1"),
        ("mnist_cnn", {"momentum": 1}, "momentum is 1; it must be a number from 0 to below 1"),
        ("resnet", {"momentum": 5}, "momentum is 5; it must be a number from 0 to below 1"),
        ("mnist_mlp", {"learning_rate": 10}, "learning_rate is 10; it must be a number from 0 to below 10"),
        ("transformer_lm", {"length": 1}, "length is 1; it must be a whole number from 2 to 4096"),
        ("transformer_lm", {"width": 4}, "width is 4; it must be a whole number from 8 to 8192"),
        ("mnist_cnn", {"evaluate_steps": 0}, "evaluate_steps is 0"),
        ("mnist_mlp", {"width": 0}, "width is 0; it must be a whole number from 1 to 65536"),
        ("lstm_text", {"length": "long"}, "length is 'long'"),
        ("transformer_lm", {"width": 66}, "width is 66 and heads is 4; the width must be a multiple of the heads"),
        ("ncf", {"users": 3}, "users is 3; it must be a whole number from 100 to 10000000"),
        ("resnet", {"depth": 18}, "depth is 18; it must be 6 n + 2, such as 8, 14, 20"),
        ("conv1d_audio", {"learning_rate": -1}, "learning_rate is -1; it must be a number from 0 to below 10"),
    ],
)  # fmt: skip
def test_a_parameter_that_makes_no_sense_is_one_sentence(workload: str, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match="^" + sentence.replace("(", r"\(").replace("+", r"\+")) as caught:
        spec_of(workload).parameters(given)
    assert "\n" not in str(caught.value)
