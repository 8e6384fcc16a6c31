"""The NumPy references are the truth that frameworks are held to: so they are held to finite differences."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workloads.contract import Cell, Named
from workloads.data import MNIST_FILES
from workloads.linear_regression import reference as linear
from workloads.linear_regression import spec as linear_spec
from workloads.mnist_cnn import reference as cnn
from workloads.mnist_cnn import spec as cnn_spec
from workloads.trial import POOL_BATCHES, inputs, sha256

EXAMPLES = {"train": 40, "test": 20}


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few invented digits in the files' own format; each image has one bright row that tells its label."""
    folder = tmp_path_factory.mktemp("mnist")
    rng = np.random.default_rng(5)
    for split, (images_file, labels_file) in MNIST_FILES.items():
        labels = rng.integers(0, 10, EXAMPLES[split]).astype(np.uint8)
        images = rng.integers(0, 60, (EXAMPLES[split], 28, 28)).astype(np.uint8)
        images[np.arange(len(labels)), 4 + 2 * labels.astype(int)] = 255
        (folder / images_file).write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.tobytes())
        (folder / labels_file).write_bytes(struct.pack(">4B1I", 0, 0, 8, 1, len(labels)) + labels.tobytes())
    return folder


def cell(workload: str, spec: Any, *, phase: str = "train", batch_size: int = 4, **parameters: Any) -> Cell:
    return Cell(
        workload=Named.of(workload, spec.parameters(parameters)), framework=Named("reference"), phase=phase,
        batch_size=batch_size, precision="fp64", device="cpu",
    )  # fmt: skip


def steepest(program: Any, step: float, places: int, seed: int = 0) -> float:
    """The largest error of the written-out gradient against central differences of the loss, relative to its norm.

    Each array is asked at its `places` largest entries of the gradient and at as many random ones.
    """
    rng = np.random.default_rng(seed)
    gradients = {name: array.copy() for name, array in program.gradients(0).items()}
    worst = 0.0
    for name, gradient in gradients.items():
        scale = np.abs(gradient).max()
        largest = np.argsort(np.abs(gradient), axis=None)[-places:]
        for flat in {*largest.tolist(), *rng.integers(0, gradient.size, places).tolist()}:
            place = np.unravel_index(flat, gradient.shape)
            found = (program.loss(name, place, step) - program.loss(name, place, -step)) / (2 * step)
            worst = max(worst, abs(found - gradient[place]) / scale)
    return worst


class Linear:
    """The loss and the gradient of the reference, at weights that can be moved."""

    def __init__(self) -> None:
        self.cell = cell("linear_regression", linear_spec, n=32, d=5)
        self.weights, self.batches = inputs(linear_spec, self.cell, 3, None, 2)
        self.gradients = self._built(self.weights).gradients

    def loss(self, name: str, place: Any, step: float) -> float:
        moved = {key: array.astype(np.float64) for key, array in self.weights.items()}
        moved[name][place] += step
        return float(self._built(moved).step(0))

    def _built(self, weights: Any) -> Any:
        return linear.build(cell=self.cell, weights=weights, batches=self.batches)


class Cnn:
    """The same for the network."""

    def __init__(self, mnist: Path) -> None:
        weights, batches = inputs(cnn_spec, cell("mnist_cnn", cnn_spec, batch_size=3), 3, mnist, 1)
        rng = np.random.default_rng(1)
        self.model = {name: array.astype(np.float64) for name, array in weights.items()}
        for name in self.model:  # biases of zero would leave ties among the pooled
            if name.endswith("bias"):
                self.model[name] = rng.normal(0, 0.05, self.model[name].shape)
        self.images, self.labels = batches["images"][0].astype(np.float64), batches["labels"][0]
        self.gradients = lambda _: cnn.loss_and_gradients(self.model, self.images, self.labels)[1]

    def loss(self, name: str, place: Any, step: float) -> float:
        moved = {**self.model, name: self.model[name].copy()}
        moved[name][place] += step
        return float(cnn.loss_and_gradients(moved, self.images, self.labels)[0])


# Gradients


def test_the_gradient_of_the_linear_regression_is_that_of_its_loss() -> None:
    assert steepest(Linear(), 1e-4, places=5) < 1e-9


def test_the_gradient_of_the_network_is_that_of_its_loss(mnist: Path) -> None:
    assert steepest(Cnn(mnist), 1e-6, places=4) < 1e-6


def test_finite_differences_see_a_gradient_that_is_a_thousandth_off(mnist: Path) -> None:
    wrong = Cnn(mnist)
    right = wrong.gradients(0)
    wrong.gradients = lambda _: {**right, "conv2/kernel": right["conv2/kernel"] * 1.001}
    assert steepest(wrong, 1e-6, places=2) > 5e-4


def test_a_convolution_is_the_sum_that_its_definition_says() -> None:
    rng = np.random.default_rng(2)
    x, kernel, bias = rng.normal(size=(2, 5, 6, 3)), rng.normal(size=(3, 3, 3, 4)), rng.normal(size=4)
    expected = np.zeros((2, 3, 4, 4))
    for n, row, column, out in np.ndindex(expected.shape):
        window = x[n, row : row + 3, column : column + 3]
        expected[n, row, column, out] = (window * kernel[..., out]).sum() + bias[out]
    np.testing.assert_allclose(cnn.conv(x, kernel, bias)[0], expected, rtol=1e-12)


def test_a_pool_takes_the_largest_of_four_and_leaves_an_odd_last_row_out() -> None:
    x = np.arange(25, dtype=float).reshape(1, 5, 5, 1)
    pooled, winner = cnn.pool(x)
    np.testing.assert_array_equal(pooled[0, :, :, 0], [[6, 8], [16, 18]])
    back = cnn.pool_gradient(np.ones_like(pooled), winner, x.shape)
    assert sorted(x[back > 0].tolist()) == [6, 8, 16, 18]


def test_the_cross_entropy_of_equal_logits_is_log_ten_and_large_logits_do_not_overflow() -> None:
    loss, gradient = cnn.cross_entropy(np.zeros((2, 10)), np.array([0, 9]))
    assert loss == pytest.approx(np.log(10))
    assert gradient.sum() == pytest.approx(0)
    assert cnn.cross_entropy(np.array([[1e4] + [0.0] * 9]), np.array([0]))[0] == 0


def test_a_step_of_the_network_is_momentum_as_the_spec_says(mnist: Path) -> None:
    one = cell("mnist_cnn", cnn_spec, learning_rate=0.1, momentum=0.5)
    weights, batches = inputs(cnn_spec, one, 0, mnist, 2)
    program = cnn.build(cell=one, weights=weights, batches=batches)
    before, first = program.weights(), program.gradients(0)
    program.step(0)
    after, second = program.weights(), program.gradients(1)
    program.step(1)
    for name, last in program.weights().items():
        np.testing.assert_allclose(after[name], before[name] - 0.1 * first[name], rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(last, after[name] - 0.1 * (0.5 * first[name] + second[name]), rtol=1e-12, atol=1e-15)


def test_an_inference_changes_nothing(mnist: Path) -> None:
    one = cell("mnist_cnn", cnn_spec, phase="infer")
    weights, batches = inputs(cnn_spec, one, 0, mnist, 2)
    program = cnn.build(cell=one, weights=weights, batches=batches)
    first = program.step(0)
    program.step(1)
    np.testing.assert_array_equal(program.step(0), first)
    assert first.shape == (4, 10)


def test_the_classic_example_learns_that_y_is_two_x() -> None:
    one = cell("linear_regression", linear_spec, preset="classic", batch_size=5)
    weights, batches = inputs(linear_spec, one, 0, None, 1000)
    program = linear.build(cell=one, weights=weights, batches=batches)
    losses = [float(program.step(i)) for i in range(1000)]
    assert losses[-1] < 1e-6 < losses[0]
    given = linear_spec.evaluation_inputs(one.workload.mapping, seed=0, data=None)
    result = linear_spec.evaluate(
        one.workload.mapping, outputs=program.outputs(given), weights=program.weights(), seed=0, data=None
    )
    assert result["weights"] == [pytest.approx(2, abs=0.01)]
    assert [point["x"] for point in result["predictions"]] == [1, 2, 3, 4, 5]
    assert [point["y"] for point in result["predictions"]] == pytest.approx([2, 4, 6, 8, 10], abs=0.02)
    assert result["mse"] < 1e-4


def test_the_standard_regression_recovers_its_weights() -> None:
    one = cell("linear_regression", linear_spec, n=1024, d=8, batch_size=64)
    weights, batches = inputs(linear_spec, one, 0, None, 500)
    program = linear.build(cell=one, weights=weights, batches=batches)
    for i in range(500):
        program.step(i)
    given = linear_spec.evaluation_inputs(one.workload.mapping, seed=0, data=None)
    result = linear_spec.evaluate(
        one.workload.mapping, outputs=program.outputs(given), weights=program.weights(), seed=0, data=None
    )
    assert result["max_weight_error"] < 0.05
    assert result["mse"] == pytest.approx(0.125**2, rel=0.2), "what is left is the noise"
    assert result["bias"] == pytest.approx(0.5, abs=0.05)


def test_the_network_learns_and_its_accuracy_is_of_the_test_images(mnist: Path) -> None:
    one = cell("mnist_cnn", cnn_spec, batch_size=10)
    weights, batches = inputs(cnn_spec, one, 0, mnist, 40)
    program = cnn.build(cell=one, weights=weights, batches=batches)
    losses = [float(program.step(i)) for i in range(40)]
    assert losses[-1] < losses[0] / 2
    given = cnn_spec.evaluation_inputs({}, seed=0, data=mnist)
    assert given.shape == (20, 28, 28, 1)
    outputs = program.outputs(given)
    accuracy = cnn_spec.evaluate({}, outputs=outputs, weights={}, seed=0, data=mnist)["test_accuracy"]
    assert accuracy > 0.5
    assert cnn_spec.evaluate({}, outputs=-outputs, weights={}, seed=0, data=mnist)["test_accuracy"] < accuracy


# The specs: one seed, the same bytes


def sample(workload: str, mnist: Path, *, seed: int = 0, batch_size: int = 8, **parameters: Any) -> str:
    spec = {"linear_regression": linear_spec, "mnist_cnn": cnn_spec}[workload]
    one = cell(workload, spec, batch_size=batch_size, **parameters)
    return sha256(*inputs(spec, one, seed, mnist, POOL_BATCHES))


@pytest.mark.parametrize("workload", ["linear_regression", "mnist_cnn"])
def test_one_seed_gives_the_same_bytes_and_another_gives_others(workload: str, mnist: Path) -> None:
    assert sample(workload, mnist) == sample(workload, mnist)
    assert sample(workload, mnist) != sample(workload, mnist, seed=1)
    assert sample(workload, mnist) != sample(workload, mnist, batch_size=10)


def test_the_bytes_of_the_linear_regression_are_the_same_on_every_machine(mnist: Path) -> None:
    assert sample("linear_regression", mnist)[:16] == "2dfd080f79e941fd"


@pytest.mark.parametrize("workload", ["linear_regression", "mnist_cnn"])
def test_more_batches_begin_with_the_same_ones_and_an_epoch_shows_each_example_once(workload: str, mnist: Path) -> None:
    spec = {"linear_regression": linear_spec, "mnist_cnn": cnn_spec}[workload]
    parameters = spec.parameters({"n": 40} if workload == "linear_regression" else {})
    few, many = (
        spec.batches(parameters, batch_size=8, count=count, seed=0, data=mnist)[spec.INPUT] for count in (3, 12)
    )
    np.testing.assert_array_equal(many[:3], few)
    assert many.shape[:2] == (12, 8), "over two epochs, and no short last batch"
    first_epoch = many[:5].reshape(40, -1)
    assert len(np.unique(first_epoch, axis=0)) == 40
    assert not np.array_equal(many[5:10], many[:5]), "the next epoch has another order"


def test_every_array_is_float32_and_labels_are_whole(mnist: Path) -> None:
    for spec, workload in ((linear_spec, "linear_regression"), (cnn_spec, "mnist_cnn")):
        weights, batches = inputs(spec, cell(workload, spec), 0, mnist, 2)
        assert {array.dtype for array in weights.values()} == {np.dtype("float32")}
        assert batches[spec.INPUT].dtype == np.float32
    assert batches["labels"].dtype == np.int64
    assert 0 <= batches["images"].min() < batches["images"].max() <= 1


def test_no_data_is_one_sentence_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="mnist_cnn needs the MNIST files; run `bench data fetch`"):
        cnn_spec.batches({}, batch_size=2, count=1, seed=0, data=None)


@pytest.mark.parametrize(
    ("spec", "given", "sentence"),
    [
        (linear_spec, {"preset": "modern"}, "preset 'modern' is unknown; choose standard or classic"),
        (linear_spec, {"n": 0}, "n is 0; it must be a whole number from 1 to 10000000"),
        (linear_spec, {"n": True}, "n is True"),
        (linear_spec, {"d": 2.5}, "d is 2.5"),
        (linear_spec, {"noise": -1}, "noise is -1; it must be a number of 0 or more"),
        (linear_spec, {"learning_rate": float("nan")}, "learning_rate is nan"),
        (linear_spec, {"preset": "classic", "n": 7}, "the preset classic has n = 5 and d = 1"),
        (cnn_spec, {"momentum": "high"}, "momentum is 'high'; it must be a number from 0 to 10"),
        (cnn_spec, {"evaluate_steps": 0}, "evaluate_steps is 0"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_one_sentence(spec: Any, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match="^" + sentence.replace("(", r"\(")) as caught:
        spec.parameters(given)
    assert "\n" not in str(caught.value)
