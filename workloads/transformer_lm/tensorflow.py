"""The network in TensorFlow: keras.layers.MultiHeadAttention, GradientTape, keras.optimizers.Adam.

source   keras.io/examples/generative/text_generation_with_miniature_gpt, with the norms before
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from workloads.contract import Cell
from workloads.runtime import Arrays, Program
from workloads.runtime.tensorflow import set_precision
from workloads.training.tensorflow import cross_entropy, load, supervised
from workloads.transformer_lm import spec


@keras.saving.register_keras_serializable("bench")
class Positions(keras.layers.Layer):
    """Adds a learned row to every place."""

    def build(self, shape: Any) -> None:
        """One row a place."""
        self.embeddings = self.add_weight(shape=shape[1:], name="embeddings")

    def call(self, x: Any) -> Any:
        """X (n, length, width)."""
        return x + self.embeddings


def gelu(x: Any) -> Any:
    """½ x (1 + tanh(√(2/π) (x + 0.044715 x³))), TensorFlow's own formula.

    Written out, because tf.nn.gelu takes its constants through float32 in float64 models too.
    """
    return 0.5 * x * (1 + tf.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def network(*, cell: Cell, weights: Arrays) -> Any:
    """Characters (n, length) to logits (n, length, 27), at the cell's precision, with the weights given."""
    set_precision(cell.precision)
    length, layers, heads, width = spec.sizes(cell.workload.mapping)
    characters = keras.Input((length,), dtype="int64")
    x = keras.layers.Embedding(spec.CHARACTERS, width, name="token")(characters)
    x = Positions(name="position")(x)
    for block in (f"block{i}" for i in range(1, layers + 1)):
        x = _block(x, block, heads, width)
    x = keras.layers.LayerNormalization(epsilon=spec.EPSILON, name="norm")(x)
    model = keras.Model(characters, keras.layers.Dense(spec.CHARACTERS, name="head")(x))
    load(model, weights)
    return model


def _block(x: Any, name: str, heads: int, width: int) -> Any:
    y = keras.layers.LayerNormalization(epsilon=spec.EPSILON, name=f"{name}.norm1")(x)
    attention = keras.layers.MultiHeadAttention(heads, width // heads, use_bias=False, name=f"{name}.attention")
    # NumPy's float64: Keras' own is a Python float, which goes through float32 in float64 models too.
    attention._inverse_sqrt_key_dim = 1 / np.sqrt(np.float64(width // heads))
    x = keras.layers.Add()([x, attention(y, y, use_causal_mask=True)])
    y = keras.layers.LayerNormalization(epsilon=spec.EPSILON, name=f"{name}.norm2")(x)
    y = keras.layers.Dense(4 * width, name=f"{name}.dense1")(y)
    y = keras.layers.Activation(gelu)(y)
    return keras.layers.Add()([x, keras.layers.Dense(width, name=f"{name}.dense2")(y)])


def build(*, cell: Cell, weights: Arrays, batches: Arrays) -> Program:
    """Place one step on the device, ready to call.

    batches  characters and next_characters (count, batch, length) int64
    returns  Program; a training step gives the mean cross-entropy in nats a character,
             an inference step logits (batch, length, 27)
    """
    return supervised(
        cell=cell,
        model=network(cell=cell, weights=weights),
        rule=spec.optimizer(cell.workload.mapping),
        loss_of=cross_entropy,
        inputs=batches["characters"],
        targets=batches["next_characters"],
    )
