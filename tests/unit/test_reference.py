"""The NumPy references are the truth that frameworks are held to: so they are held to finite differences."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mnist_files import write_digits

from workloads import layers, text
from workloads.contract import Cell, Named
from workloads.training import Rule
from workloads.training.reference import STATISTICS, optimizer
from workloads.trial import inputs

# As small as each can be and still have all its parts.
SMALL: dict[str, dict[str, Any]] = {
    "linear_regression": {"n": 32, "d": 5},
    "logistic_regression": {"n": 32, "d": 5},
    "svm": {"n": 32, "d": 5, "c": 0.1},
    "mnist_mlp": {"width": 16},
    "mnist_cnn": {},
    "lstm_text": {"length": 5, "width": 6},
    "transformer_lm": {"length": 6, "layers": 2, "heads": 2, "width": 8},
    "ncf": {"users": 120, "items": 110, "factors": 3},
    "resnet": {},
    "conv1d_audio": {},
}


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("mnist"))


def spec_of(workload: str) -> Any:
    return importlib.import_module(f"workloads.{workload}.spec")


def cell(workload: str, *, phase: str = "train", batch_size: int = 4, **parameters: Any) -> Cell:
    return Cell(
        workload=Named.of(workload, spec_of(workload).parameters(parameters)), framework=Named("reference"),
        phase=phase, batch_size=batch_size, precision="fp64", device="cpu",
    )  # fmt: skip


@dataclass
class Model:
    """A reference at weights that can be moved."""

    workload: str
    data: Path | None
    batch_size: int = 3
    wrong: dict[str, float] = field(default_factory=dict)  # the written-out gradient, multiplied

    def __post_init__(self) -> None:
        self.cell = cell(self.workload, batch_size=self.batch_size, **SMALL[self.workload])
        drawn, self.batches = inputs(spec_of(self.workload), self.cell, 3, self.data, 1)
        rng = np.random.default_rng(1)
        self.weights = {name: array.astype(np.float64) for name, array in drawn.items()}
        for name, array in self.weights.items():  # zeros would leave ties among the pooled, and hide what they multiply
            if name.endswith(("bias", "beta", "gamma", "embeddings")):
                self.weights[name] = array + rng.normal(0, 0.05, array.shape)

    def built(self, weights: Any, phase: str = "train") -> Any:
        one = Cell.from_json({**self.cell.to_json(), "phase": phase})
        reference = importlib.import_module(f"workloads.{self.workload}.reference")
        return reference.build(cell=one, weights=weights, batches=self.batches)

    def gradients(self) -> dict[str, Any]:
        found = self.built(self.weights).gradients(0)
        return {name: array * self.wrong.get(name, 1.0) for name, array in found.items()}

    def loss(self, name: str, place: Any, step: float) -> float:
        moved = {**self.weights, name: self.weights[name].copy()}
        moved[name][place] += step
        return float(self.built(moved).step(0))


def steepest(model: Model, step: float, places: int) -> float:
    """The largest error of the written-out gradient against central differences of the loss, relative to its norm.

    Each array is asked at its `places` largest entries of the gradient and at as many random ones.
    """
    rng = np.random.default_rng(0)
    worst = 0.0
    for name, gradient in model.gradients().items():
        scale = np.abs(gradient).max()
        largest = np.argsort(np.abs(gradient), axis=None)[-places:]
        for flat in {*largest.tolist(), *rng.integers(0, gradient.size, places).tolist()}:
            place = np.unravel_index(flat, gradient.shape)
            found = (model.loss(name, place, step) - model.loss(name, place, -step)) / (2 * step)
            worst = max(worst, abs(found - gradient[place]) / scale)
    return worst


@pytest.mark.parametrize("workload", SMALL)
def test_every_gradient_is_that_of_its_loss(workload: str, mnist: Path) -> None:
    assert steepest(Model(workload, mnist), 1e-6, places=2) < 1e-6


def test_finite_differences_see_a_gradient_that_is_a_thousandth_off(mnist: Path) -> None:
    assert steepest(Model("mnist_cnn", mnist, wrong={"conv2/kernel": 1.001}), 1e-6, places=2) > 5e-4


@pytest.mark.parametrize("workload", SMALL)
def test_every_weight_has_a_gradient_of_its_shape_but_for_what_is_only_counted(workload: str, mnist: Path) -> None:
    model = Model(workload, mnist)
    trained = {name: array.shape for name, array in model.weights.items() if not name.endswith(STATISTICS)}
    assert {name: array.shape for name, array in model.gradients().items()} == trained


@pytest.mark.parametrize("workload", SMALL)
def test_an_inference_changes_nothing_and_gives_one_output_for_every_example(workload: str, mnist: Path) -> None:
    model = Model(workload, mnist)
    program = model.built(model.weights, phase="infer")
    first = program.step(0)
    np.testing.assert_array_equal(program.step(0), first)
    assert len(first) == 3
    for name, array in program.weights().items():
        np.testing.assert_array_equal(array, model.weights[name])


# Layers


def test_a_convolution_is_the_sum_that_its_definition_says() -> None:
    rng = np.random.default_rng(2)
    model = {"c/kernel": rng.normal(size=(3, 2, 3, 4)), "c/bias": rng.normal(size=4)}
    x = rng.normal(size=(2, 7, 6, 3))
    found, _ = layers.convolution(model, "c", stride=2)(x)
    expected = np.zeros((2, 3, 3, 4))
    for n, row, column, out in np.ndindex(expected.shape):
        window = x[n, 2 * row : 2 * row + 3, 2 * column : 2 * column + 2]
        expected[n, row, column, out] = (window * model["c/kernel"][..., out]).sum() + model["c/bias"][out]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_convolution_along_one_axis_is_that_along_two_of_width_one() -> None:
    rng = np.random.default_rng(2)
    model = {"one/kernel": rng.normal(size=(5, 3, 4))}
    model["two/kernel"] = model["one/kernel"][:, None]
    x = rng.normal(size=(2, 21, 3))
    along, _ = layers.convolution(model, "one", stride=4)(x)
    across, _ = layers.convolution(model, "two", stride=4)(x[:, :, None].repeat(1, axis=2))
    assert along.shape == (2, 5, 4)
    np.testing.assert_allclose(along, across[:, :, 0], rtol=1e-12)


def test_a_pool_takes_the_largest_of_four_and_leaves_an_odd_last_row_out() -> None:
    x = np.arange(25, dtype=float).reshape(1, 5, 5, 1)
    pooled, back = layers.max_pool(2, axes=2)(x)
    np.testing.assert_array_equal(pooled[0, :, :, 0], [[6, 8], [16, 18]])
    assert sorted(x[back(np.ones_like(pooled), {}) > 0].tolist()) == [6, 8, 16, 18]
    pooled, back = layers.max_pool(3, axes=1)(np.array([3.0, 1, 2, 9, 9, 4, 7])[None, :, None])
    assert pooled.ravel().tolist() == [3, 9]
    assert back(np.ones_like(pooled), {}).ravel().tolist() == [1, 0, 0, 1, 0, 0, 0], "the first of equals"


def test_the_cross_entropy_of_equal_logits_is_log_ten_and_large_logits_do_not_overflow() -> None:
    loss, gradient = layers.cross_entropy(np.array([0, 9]), np.zeros((2, 10)))
    assert loss == pytest.approx(np.log(10))
    assert gradient.sum() == pytest.approx(0)
    assert layers.cross_entropy(np.array([0]), np.array([[1e4] + [0.0] * 9]))[0] == 0


def test_a_large_logit_of_either_class_is_a_loss_and_no_overflow() -> None:
    targets, logits = np.array([[1.0], [0.0]]), np.array([[-800.0], [800.0]])
    loss, gradient = layers.binary_cross_entropy(targets, logits)
    assert loss == 800
    np.testing.assert_allclose(gradient, [[-0.5], [0.5]])


def test_no_place_of_an_attention_sees_a_later_one() -> None:
    model = Model("transformer_lm", None)
    program = model.built(model.weights, phase="infer")
    characters = model.batches["characters"][0].copy()
    before = program.outputs(characters)
    characters[:, 3] = (characters[:, 3] + 1) % 27
    after = program.outputs(characters)
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert not np.allclose(after[:, 3:], before[:, 3:])


def test_an_lstm_forgets_nothing_between_places_and_everything_between_examples() -> None:
    model = Model("lstm_text", None)
    program = model.built(model.weights, phase="infer")
    characters = model.batches["characters"][0]
    alone = program.outputs(characters[1:2])
    np.testing.assert_allclose(program.outputs(characters)[1:2], alone, rtol=1e-12)
    first = characters[1:2].copy()
    first[0, 0] = (first[0, 0] + 1) % 27
    assert not np.allclose(program.outputs(first)[0, -1], alone[0, -1])


def test_a_batch_norm_keeps_nine_tenths_of_its_moving_figures_and_uses_them_in_inference() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(2, 3, (50, 4))
    model = {"n/gamma": np.full(4, 2.0), "n/beta": np.full(4, -1.0), "n/moving_mean": np.full(4, 0.5),
             "n/moving_variance": np.full(4, 4.0)}  # fmt: skip
    moved: dict[str, Any] = {}
    y, _ = layers.batch_norm(model, "n", epsilon=0.0, keep=0.9, moved=moved)(x)
    np.testing.assert_allclose(y.mean(axis=0), -1, atol=1e-12)
    np.testing.assert_allclose(y.std(axis=0), 2, rtol=1e-12)
    np.testing.assert_allclose(moved["n/moving_mean"], 0.45 + 0.1 * x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moved["n/moving_variance"], 3.6 + 0.1 * x.var(axis=0), rtol=1e-12)
    fixed, _ = layers.batch_norm(model, "n", epsilon=0.0, keep=0.9, moved=None)(x)
    np.testing.assert_allclose(fixed, 2 * (x - 0.5) / 2 - 1, rtol=1e-12)


# Update rules


def test_momentum_is_as_the_rule_says() -> None:
    model = {"w": np.array([1.0, 2.0])}
    update = optimizer(Rule(name="sgd", learning_rate=0.1, momentum=0.5), model)
    for gradient in ([1.0, -2.0], [3.0, 1.0]):
        update({"w": np.array(gradient)})
    np.testing.assert_allclose(model["w"], [1 - 0.1 - 0.1 * 3.5, 2 + 0.2 - 0.1 * 0.0])


def test_adam_is_as_the_rule_says() -> None:
    """By the textbook's order, moments corrected first: ε = ε̂ / √(1 − β₂ᵗ) makes it the same."""
    rule = Rule(name="adam", learning_rate=0.01)
    model = {"w": np.array([1.0, -2.0, 0.5])}
    update, expected = optimizer(rule, model), model["w"].copy()
    first, second = np.zeros(3), np.zeros(3)
    for t, gradient in enumerate(np.random.default_rng(0).normal(0, 1e-6, (5, 3)), start=1):
        update({"w": gradient})
        first = rule.beta1 * first + (1 - rule.beta1) * gradient
        second = rule.beta2 * second + (1 - rule.beta2) * gradient**2
        epsilon = rule.epsilon / np.sqrt(1 - rule.beta2**t)
        expected -= 0.01 * (first / (1 - rule.beta1**t)) / (np.sqrt(second / (1 - rule.beta2**t)) + epsilon)
    np.testing.assert_allclose(model["w"], expected, rtol=1e-12)


# What training comes to


def trained(workload: str, steps: int, mnist: Path | None, *, batch_size: int = 64, **parameters: Any) -> Any:
    """The program after so many steps, and what the spec says of it."""
    spec = spec_of(workload)
    one = cell(workload, **parameters)
    one = Cell.from_json({**one.to_json(), "batch_size": spec.batch_size(one.workload.mapping, batch_size)})
    weights, batches = inputs(spec, one, 0, mnist, steps)
    program = importlib.import_module(f"workloads.{workload}.reference").build(
        cell=one, weights=weights, batches=batches
    )
    for i in range(steps):
        program.step(i)
    given = spec.evaluation_inputs(one.workload.mapping, seed=0, data=mnist)
    return spec.evaluate(
        one.workload.mapping, outputs=program.outputs(given), weights=program.weights(), seed=0, data=mnist
    )


def test_the_classic_regression_learns_that_y_is_two_x() -> None:
    result = trained("linear_regression", 1000, None, preset="classic")
    assert result["weights"] == [pytest.approx(2, abs=0.01)]
    assert [point["x"] for point in result["predictions"]] == [1, 2, 3, 4, 5]
    assert [point["y"] for point in result["predictions"]] == pytest.approx([2, 4, 6, 8, 10], abs=0.02)
    assert result["mse"] == 2 * result["loss"] < 1e-4


def test_the_standard_regression_recovers_its_weights() -> None:
    result = trained("linear_regression", 500, None, n=1024, d=8)
    assert result["max_weight_error"] < 0.05
    assert result["mse"] == pytest.approx(0.125**2, rel=0.2), "what is left is the noise"
    assert result["bias"] == pytest.approx(0.5, abs=0.05)


def test_the_classic_logistic_regression_finds_the_published_coefficients() -> None:
    result = trained("logistic_regression", 4000, None, preset="classic", optimizer="gradient_descent")
    assert result["weights"] == [pytest.approx(1.5046, abs=5e-4)]
    assert result["bias"] == pytest.approx(-4.0777, abs=5e-4)
    assert result["accuracy"] == 0.8


def test_the_classic_support_vector_machine_finds_the_widest_street() -> None:
    result = trained("svm", 10_000, None, preset="classic", optimizer="gradient_descent")
    assert result["weights"] == pytest.approx([2 / 3, 2 / 3], abs=0.005)
    assert result["bias"] == pytest.approx(-5 / 3, abs=0.01)
    assert result["loss"] == pytest.approx(4 / 9, abs=0.002)
    assert result["accuracy"] == 1


@pytest.mark.parametrize("workload", ["mnist_mlp", "mnist_cnn"])
def test_networks_on_digits_learn_and_their_accuracy_is_of_the_test_images(workload: str, mnist: Path) -> None:
    assert trained(workload, 40, mnist, batch_size=10)["test_accuracy"] > 0.5


def test_a_recommender_learns_what_its_users_choose() -> None:
    # A user of few has many examples: 90 of each are a matter of seconds.
    result = trained("ncf", 800, None, users=400, items=300, learning_rate=0.01, batch_size=256)
    assert result["hit_rate_at_10"] > 0.3, "a guess has 0.1"


@pytest.mark.second
def test_waveforms_are_told_apart() -> None:
    assert trained("conv1d_audio", 60, None, batch_size=16)["test_accuracy"] > 0.3, "a guess has 0.1"


@pytest.mark.second
def test_a_small_transformer_comes_near_the_entropy_of_single_characters_and_stays_above_the_source_s() -> None:
    result = trained("transformer_lm", 150, None, batch_size=16, width=32, layers=1)
    places = text.characters(0, 2, text.TRAIN_CHARACTERS)
    shares = np.bincount(places) / len(places)
    single = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
    assert result["entropy_nats_per_character"] < result["test_nats_per_character"] < single
