"""One training step in TensorFlow: GradientTape and keras.optimizers, around a Keras model.

source   keras.io/guides/writing_a_custom_training_loop_in_tensorflow
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from workloads.contract import Cell
from workloads.runtime import DTYPES, Array, Arrays, Program, at_precision
from workloads.runtime.tensorflow import wrap
from workloads.training import Rule


def named(model: Any) -> dict[str, Any]:
    """Every variable by the spec's name, which is Keras' path without the model's own name and without cells'."""
    return {_name(model, variable.path): variable for variable in model.weights}


def _name(model: Any, path: str) -> str:
    return path.removeprefix(f"{model.name}/").replace("/lstm_cell/", "/").replace(".", "/")


def load(model: Any, weights: Arrays) -> None:
    """Give every variable its weight. Raises ValueError: other names or other shapes than the spec's."""
    variables = named(model)
    if set(variables) != set(weights):
        raise ValueError(f"the model's variables are not the spec's: {sorted(set(variables) ^ set(weights))}")
    for name, variable in variables.items():
        variable.assign(weights[name])


def optimizer(rule: Rule, variables: Sequence[Any]) -> Callable[[Sequence[Any]], None]:
    """Gradients -> the update of the variables."""
    if rule.name == "gradient_descent":

        def descend(gradients: Sequence[Any]) -> None:
            for variable, gradient in zip(variables, gradients, strict=True):
                variable.assign_sub(tf.constant(rule.learning_rate, gradient.dtype) * gradient)

        return descend
    # NumPy's float64: Keras casts a Python float to float32 on its way into the update, whatever the precision.
    if rule.name == "adam":
        made = keras.optimizers.Adam(
            learning_rate=rule.learning_rate,
            beta_1=np.float64(rule.beta1),
            beta_2=np.float64(rule.beta2),
            epsilon=np.float64(rule.epsilon),
        )
    else:
        made = keras.optimizers.SGD(learning_rate=rule.learning_rate, momentum=np.float64(rule.momentum))
    made.build(variables)

    def update(gradients: Sequence[Any]) -> None:
        made.apply([dense(gradient) for gradient in gradients], variables)

    return update


def dense(gradient: Any) -> Any:
    """A gradient with one row for every row of its variable, as PyTorch's are.

    An embedding's has one for every use, and Keras' Adam squares these before it adds those of the same row up: with a
    row used twice its second moment is Σ gᵢ² and not (Σ gᵢ)².
    """
    return tf.convert_to_tensor(gradient) if isinstance(gradient, tf.IndexedSlices) else gradient


def cross_entropy(y: Any, outputs: Any) -> Any:
    """The mean of −log softmax at the label, in nats: labels (…), logits (…, classes).

    One call, as PyTorch's is: Keras' own loss casts the labels to float32 and back, and looks for weights and masks.
    """
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=outputs))


def supervised(
    *,
    cell: Cell,
    model: Any,
    rule: Rule,
    loss_of: Callable[[Any, Any], Any],
    inputs: Array,
    targets: Array,
    head: Callable[[Any], Any] = lambda outputs: outputs,
) -> Program:
    """Place one step on the device, ready to call; the model already holds the spec's weights.

    loss_of          (targets, outputs) -> the scalar loss
    inputs, targets  (count, batch, …)
    head             of an inference: the model's outputs -> what is given out
    """
    dtype = DTYPES[cell.precision]
    trainable = list(model.trainable_variables)  # once, as PyTorch's twin does: Keras gathers them anew every time
    update = optimizer(rule, trainable)
    xs: list[Any] = []
    ys: list[Any] = []

    def give(inputs: Array, targets: Array) -> None:
        xs[:] = [tf.constant(at_precision(batch, dtype)) for batch in inputs]
        ys[:] = [tf.constant(at_precision(batch, dtype)) for batch in targets]

    give(inputs, targets)

    def loss_and_gradients(x: Any, y: Any) -> tuple[Any, list[Any]]:
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        return loss, tape.gradient(loss, trainable)

    def train(x: Any, y: Any) -> Any:
        loss, gradients = loss_and_gradients(x, y)
        update(gradients)
        return loss

    def infer(x: Any, y: Any) -> Any:
        return head(model(x, training=False))

    step = wrap(train if cell.phase == "train" else infer, cell.mode)
    probe = wrap(loss_and_gradients, cell.mode)

    def gradients(i: int, *, eager: bool = False) -> dict[str, Array]:
        kept = [variable.numpy() for variable in model.non_trainable_variables]
        _, found = (loss_and_gradients if eager else probe)(xs[i % len(xs)], ys[i % len(ys)])
        for variable, value in zip(model.non_trainable_variables, kept, strict=True):
            variable.assign(value)
        names = (_name(model, variable.path) for variable in trainable)
        return {name: dense(one).numpy() for name, one in zip(names, found, strict=True)}

    return Program(
        parameter_count=sum(int(np.prod(variable.shape)) for variable in trainable),
        step=lambda i: step(xs[i % len(xs)], ys[i % len(ys)]),
        give=give,
        gradients=gradients,
        outputs=lambda x: infer(tf.constant(at_precision(x, dtype)), None).numpy(),
        weights=lambda: {name: variable.numpy() for name, variable in named(model).items()},
        fetch=lambda value: value.numpy(),
    )
