"""Every way in which a twin is broken on purpose, and what the certificate must then say.

A mutation edits a copy of the workloads' package: one place of one file, in one framework's half.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

RULE = "rule=spec.optimizer(cell.workload.mapping)"
ADAM = ("mnist_mlp", "lstm_text", "transformer_lm", "ncf", "conv1d_audio")
LINEAR = ("linear_regression", "logistic_regression", "svm")


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """`old` becomes `new` in `file`, which is the twin where none is named; `cause` begins the certificate's reason.

    given    parameters of the workload, where not the defaults
    also     further edits of the same file
    closing  steps of the timed program that are looked at, after sixty that are not
    """

    workload: str
    framework: str
    kind: str
    old: str
    new: str
    cause: str
    file: str = ""
    phase: str = "train"
    given: tuple[tuple[str, int | float], ...] = ()
    closing: int = 3
    also: tuple[tuple[str, str], ...] = ()

    @property
    def edits(self) -> tuple[tuple[str, str], ...]:
        """What is replaced by what."""
        return ((self.old, self.new), *self.also)

    @property
    def late(self) -> bool:
        """Whether it begins after the steps that are traced: closing sees it."""
        return self.cause.startswith("leaves out")

    @property
    def path(self) -> str:
        """The file, from the root of the tree."""
        return self.file or f"workloads/{self.workload}/{self.framework}.py"

    @property
    def healthy(self) -> str:
        """The name of the same cell, unbroken."""
        return ", ".join([self.workload, self.phase, *(f"{name} {value}" for name, value in self.given)])

    def __str__(self) -> str:
        given = "".join(f", {name} {value}" for name, value in self.given)
        phase = ", inference" if self.phase == "infer" else ""
        return f"{self.workload}, {self.kind}, {self.framework}{phase}{given}"


def _ruled(change: str) -> str:
    """The spec's rule with one number changed."""
    return f'rule=__import__("dataclasses").replace(spec.optimizer(cell.workload.mapping), {change})'


def _in_all(workloads: dict[str, str], kind: str, old: str, new: str, cause: str) -> list[Mutation]:
    return [
        Mutation(workload=workload, framework=framework, kind=kind, old=old, new=new, cause=cause)
        for workload, framework in workloads.items()
    ]


_T, _P = "tensorflow", "pytorch"
_TRAINING = "workloads/training"
# The loss as a sum: by which call each twin takes a mean.
_REDUCTIONS = [
    ("linear_regression", _T, "tf.reduce_mean(", "tf.reduce_sum("),
    ("logistic_regression", _P, "binary_cross_entropy_with_logits(outputs, y)",
     'binary_cross_entropy_with_logits(outputs, y, reduction="sum")'),
    ("svm", _P, "torch.mean(slack)", "torch.sum(slack)"),
    ("ncf", _T, "tf.reduce_mean(", "tf.reduce_sum("),
    *((name, _T, "loss_of=cross_entropy",
       "loss_of=lambda y, z: cross_entropy(y, z) * __import__('math').prod(y.shape)")
      for name in ("mnist_mlp", "mnist_cnn", "lstm_text", "transformer_lm", "resnet", "conv1d_audio")),
]  # fmt: skip
_INPUTS = {"linear_regression": "features", "logistic_regression": "features", "svm": "features", "mnist_mlp": "images",
           "mnist_cnn": "images", "lstm_text": "characters", "transformer_lm": "characters", "ncf": "pairs",
           "resnet": "images", "conv1d_audio": "waveforms"}  # fmt: skip
_LOADS = dict.fromkeys(_INPUTS, "load(model, weights)") | dict.fromkeys(
    ("mnist_cnn", "transformer_lm"), "load(model, weights, layout=to_torch)"
)
_BIASES = {
    "mnist_mlp": ("nn.Linear(width, spec.CLASSES)", "nn.Linear(width, spec.CLASSES, bias=False)", "dense2/bias"),
    "mnist_cnn": ("nn.Linear(128, 10)", "nn.Linear(128, 10, bias=False)", "dense2/bias"),
    "lstm_text": ("nn.Linear(width, characters)", "nn.Linear(width, characters, bias=False)", "head/bias"),
    "transformer_lm": ("nn.Linear(width, 4 * width)", "nn.Linear(width, 4 * width, bias=False)", "block1/dense1/bias"),
    "ncf": ("nn.Linear(2 * f, 1)", "nn.Linear(2 * f, 1, bias=False)", "head/bias"),
    "resnet": ("nn.Linear(spec.STAGES[-1], spec.CLASSES)", "nn.Linear(spec.STAGES[-1], spec.CLASSES, bias=False)",
               "head/bias"),
    "conv1d_audio": ("nn.Conv1d(32, 32, 3)", "nn.Conv1d(32, 32, 3, bias=False)", "conv2/bias"),
    **dict.fromkeys(LINEAR, ("nn.Linear(d, 1)", "nn.Linear(d, 1, bias=False)", "linear/bias")),
}  # fmt: skip

# Where each framework's step is called; `{kept}`: whether the n-th call updates.
_STEP = {
    _T: ("step=lambda i: step(xs[i % len(xs)], ys[i % len(ys)]),",
         ("step=lambda i, n=__import__('itertools').count(1): step(xs[i % len(xs)], ys[i % len(ys)]) "
         "if next(n) {kept} else probe(xs[i % len(xs)], ys[i % len(ys)])[0],")),
    _P: ("        return step(xs[i % len(xs)], ys[i % len(ys)])\n",
         ("        stepped.n = getattr(stepped, 'n', 0) + 1\n"
         "        x, y = xs[i % len(xs)], ys[i % len(ys)]\n"
         "        return step(x, y) if stepped.n {kept} else probe(x, y)[0]\n")),
}  # fmt: skip


def _late(workload: str, framework: str, kind: str, kept: str, closing: int) -> Mutation:
    """Its update is left out where the certificate's traces do not look."""
    old, new = _STEP[framework]
    return Mutation(workload=workload, framework=framework, kind=kind, old=old, new=new.format(kept=kept),
                    cause="leaves out updates", file=f"{_TRAINING}/{framework}.py", closing=closing)  # fmt: skip


# Where each framework's output is fetched.
_FETCH = {
    _T: ("fetch=lambda value: value.numpy(),", "fetch=lambda value: (setattr(give, 'n', 0), value.numpy())[1],"),
    _P: ("fetch=lambda value: value.cpu().numpy(),",
         "fetch=lambda value: (setattr(stepped, 'n', 0), value.cpu().numpy())[1],"),
}  # fmt: skip


def _unseen(workload: str, framework: str, *, late: bool = False) -> Mutation:
    """Its update is left out from the third step after a fetch on, as inside a slice; `late`: of the 60th and later."""
    old, _ = _STEP[framework]
    begins = " or i < 60" if late else ""
    new = {
        _T: ("step=lambda i: (setattr(give, 'n', getattr(give, 'n', 0) + 1), step(xs[i % len(xs)], ys[i % len(ys)]) "
             f"if give.n < 3{begins} else probe(xs[i % len(xs)], ys[i % len(ys)])[0])[1],"),
        _P: _STEP[_P][1].format(kept=f"< 3{begins}"),
    }  # fmt: skip
    kind = "no update inside slices" + (" from the 60th step on" if late else "")
    return Mutation(workload=workload, framework=framework, kind=kind, old=old, new=new[framework],
                    cause="leaves out updates" if late else "unfetched steps",
                    file=f"{_TRAINING}/{framework}.py", also=(_FETCH[framework],))  # fmt: skip


BASE: tuple[Mutation, ...] = (
    *(Mutation(workload=name, framework=framework, kind="reduction", old=old, new=new, cause="float64 gradients")
      for name, framework, old, new in _REDUCTIONS),
    # The framework's own initial weights in the place of the spec's.
    *(Mutation(workload=name, framework=_P, kind="initialisation", old=f"    {load}\n", new="",
               cause="float64 gradients") for name, load in _LOADS.items()),
    *(Mutation(workload=name, framework=_P, kind="dropped bias", old=old, new=new,
               cause=f"ValueError: the model's tensors are not the spec's: ['{missing}'")
      for name, (old, new, missing) in _BIASES.items()),
    # Inputs in another order than their targets.
    *(Mutation(workload=name, framework=_T, kind="shuffled batch", old=f'inputs=batches["{inputs}"]',
               new=f'inputs=batches["{inputs}"][:, ::-1]', cause="float64 gradients")
      for name, inputs in _INPUTS.items()),
    *_in_all(dict.fromkeys(ADAM, _T), "ε", RULE, _ruled("epsilon=1e-8"), "float64 weights"),
    *_in_all({"mnist_cnn": _P, "resnet": _T}, "momentum", RULE, _ruled("momentum=0.899"), "float64 weights"),
    *_in_all(dict.fromkeys(LINEAR, _T), "learning rate", RULE, _ruled("learning_rate=0.5001"), "float64 weights"),
    Mutation(workload="mnist_mlp", framework=_P, kind="ε as PyTorch means it", file=f"{_TRAINING}/pytorch.py",
             old="rule.epsilon / math.sqrt(1 - rule.beta2**steps)", new="rule.epsilon", cause="float64 weights"),
    Mutation(workload="mnist_cnn", framework=_T, kind="momentum in float32", file=f"{_TRAINING}/tensorflow.py",
             old="momentum=np.float64(rule.momentum)", new="momentum=rule.momentum", cause="float64 weights"),
    Mutation(workload="mnist_cnn", framework=_P, kind="learning rate in float32", old=RULE,
             new=_ruled("learning_rate=float(np.float32(0.02))"), cause="float64 weights"),
    Mutation(workload="mnist_cnn", framework=_P, kind="learning rate at the timed precision alone", old=RULE,
             new=_ruled("learning_rate=0.02 * (1 + (cell.precision == 'fp32'))"), cause="fp32 losses"),
    Mutation(workload="mnist_cnn", framework=_T, kind="nesterov", file=f"{_TRAINING}/tensorflow.py",
             old="    made.build(", new="    made.nesterov = True\n    made.build(", cause="float64 weights"),
    Mutation(workload="lstm_text", framework=_T, kind="Adam on rows that are used twice",
             file=f"{_TRAINING}/tensorflow.py",
             old="made.apply([dense(gradient) for gradient in gradients], variables)",
             new="made.apply(gradients, variables)", cause="float64 weights"),
    Mutation(workload="linear_regression", framework=_T, kind="half a loss",
             old="tf.reduce_mean(tf.square(outputs - y)) / 2", new="tf.reduce_mean(tf.square(outputs - y))",
             cause="float64 gradients"),
    Mutation(workload="linear_regression", framework=_P, kind="order of batches", file=f"{_TRAINING}/pytorch.py",
             old="return step(xs[i % len(xs)], ys[i % len(ys)])", new="return step(xs[-i % len(xs)], ys[-i % len(ys)])",
             cause="float64 weights"),
    Mutation(workload="svm", framework=_T, kind="no margin", old="tf.nn.relu(1 - y * outputs)",
             new="tf.nn.relu(-y * outputs)", cause="float64 gradients"),
    Mutation(workload="svm", framework=_P, kind="no penalty", old="torch.sum(torch.square(kernel)) / 2 + ", new="",
             cause="float64 gradients"),
    # Layout
    Mutation(workload="mnist_mlp", framework=_P, kind="layout", old='inputs=batches["images"]',
             new='inputs=batches["images"].reshape(16, -1, 28, 28).swapaxes(2, 3).reshape(16, -1, 784)',
             cause="float64 gradients"),
    Mutation(workload="mnist_cnn", framework=_P, kind="layout",
             old="array.reshape(5, 5, 64, 128).transpose(3, 2, 0, 1).reshape(128, -1)", new="array.T",
             cause="float64 gradients"),
    Mutation(workload="lstm_text", framework=_T, kind="layout of the gates", old="load(model, weights)",
             new='load(model, {**weights, "lstm/kernel": weights["lstm/kernel"][:, ::-1]})',
             cause="float64 gradients"),
    Mutation(workload="transformer_lm", framework=_P, kind="layout of the heads",
             old="split = (*x.shape[:2], self.heads, -1)", new="split = (*x.shape[:2], -1, self.heads)",
             cause="float64 gradients"),
    Mutation(workload="ncf", framework=_P, kind="layout", old="torch.cat([gmf, mlp], dim=-1)",
             new="torch.cat([mlp, gmf], dim=-1)", cause="float64 gradients"),
    Mutation(workload="resnet", framework=_P, kind="layout", old="given=nchw",
             new="given=lambda x: x.transpose(0, 3, 2, 1)", cause="float64 gradients"),
    Mutation(workload="conv1d_audio", framework=_T, kind="a convolution turned round", old="load(model, weights)",
             new='load(model, {**weights, "conv2/kernel": weights["conv2/kernel"][::-1]})', cause="float64 gradients"),
    # Padding
    Mutation(workload="mnist_cnn", framework=_T, kind="padding", old='Conv2D(64, 3, padding="valid"',
             new='Conv2D(64, 3, padding="same"', cause="ValueError"),
    Mutation(workload="resnet", framework=_T, kind="padding on one side",
             old="keras.layers.ZeroPadding2D(1)(x)", new="keras.layers.ZeroPadding2D(((0, 2), (0, 2)))(x)",
             cause="float64 gradients"),
    Mutation(workload="conv1d_audio", framework=_P, kind="padding", old="conv2=nn.Conv1d(32, 32, 3)",
             new="conv2=nn.Conv1d(32, 32, 3, padding=1)", cause="float64 gradients"),
    Mutation(workload="mnist_cnn", framework=_T, kind="padding that keeps every shape",
             old='keras.layers.Conv2D(32, 3, padding="valid"',
             new='keras.layers.ZeroPadding2D(((1, 0), (1, 0))),\n        keras.layers.Conv2D(32, 3, padding="valid"',
             cause="float64 gradients"),
    # A bias that is there and not added
    Mutation(workload="lstm_text", framework=_P, kind="bias left out of the forward pass",
             old="self.head(hidden)", new="(self.head(hidden) - self.head.bias)", cause="float64 gradients"),
    Mutation(workload="resnet", framework=_P, kind="bias left out of the forward pass",
             old="self.head(self.flatten(self.pool(x)))",
             new="(self.head(self.flatten(self.pool(x))) - self.head.bias)", cause="float64 gradients"),
    # In inference
    Mutation(workload="logistic_regression", framework=_P, kind="no sigmoid", phase="infer",
             old="        head=torch.sigmoid,\n", new="", cause="float64 outputs"),
    Mutation(workload="resnet", framework=_T, kind="norms as in training", phase="infer",
             file=f"{_TRAINING}/tensorflow.py", old="head(model(x, training=False))",
             new="head(model(x, training=True))", cause="float64 outputs"),
    Mutation(workload="transformer_lm", framework=_T, kind="a look ahead", phase="infer", old="use_causal_mask=True",
             new="use_causal_mask=False", cause="float64 outputs"),
    Mutation(workload="mnist_mlp", framework=_P, kind="layout", phase="infer", old='inputs=batches["images"]',
             new='inputs=batches["images"][..., ::-1]', cause="float64 outputs"),
    # Norms
    Mutation(workload="resnet", framework=_T, kind="Keras' own ε of a norm", old="epsilon=spec.EPSILON, ", new="",
             cause="float64 gradients"),
    Mutation(workload="resnet", framework=_P, kind="what a norm keeps for what is new", old="momentum=1 - spec.KEEP",
             new="momentum=spec.KEEP", cause="float64 weights"),
    Mutation(workload="resnet", framework=_P, kind="an unbiased variance", file=f"{_TRAINING}/pytorch.py",
             old="(now - begun) * (1 - 1 / self.places[norm])", new="(now - begun)", cause="float64 weights"),
    Mutation(workload="transformer_lm", framework=_T, kind="Keras' own ε of a norm",
             old='keras.layers.LayerNormalization(epsilon=spec.EPSILON, name="norm")',
             new='keras.layers.LayerNormalization(name="norm")', cause="float64 gradients"),
    # What a model is made of
    Mutation(workload="mnist_cnn", framework=_T, kind="pooling",
             old="keras.layers.MaxPooling2D(2),\n        keras.layers.Flatten()",
             new="keras.layers.AveragePooling2D(2),\n        keras.layers.Flatten()", cause="float64 gradients"),
    Mutation(workload="lstm_text", framework=_P, kind="two biases in training", old=".requires_grad_(False)", new="",
             cause="has another number of parameters than the reference (off by 512)"),
    Mutation(workload="transformer_lm", framework=_T, kind="a look ahead", old="use_causal_mask=True",
             new="use_causal_mask=False", cause="float64 gradients"),
    Mutation(workload="transformer_lm", framework=_P, kind="another GELU", old='nn.GELU(approximate="tanh")',
             new="nn.GELU()", cause="float64 gradients"),
    Mutation(workload="linear_regression", framework="sklearn", kind="momentum", file=f"{_TRAINING}/sklearn.py",
             old="momentum=0.0", new="momentum=0.5", cause="float64 gradients"),
    Mutation(workload="logistic_regression", framework="sklearn", kind="penalty", file=f"{_TRAINING}/sklearn.py",
             old="alpha=0.0", new="alpha=1e-4", cause="float64 gradients"),
    Mutation(workload="svm", framework="sklearn", kind="penalty", old="alpha=1 / self.slack_weight",
             new="alpha=2 / self.slack_weight", cause="float64 gradients"),
    # Updates that are left out
    *(_late(workload, framework, "no update from the 60th step on", "< 60", 3)
      for workload, framework in {**dict.fromkeys(_INPUTS, _T), "mnist_cnn": _P, "lstm_text": _P, "svm": _P}.items()),
    *(_unseen(workload, framework) for workload, framework in
      {**dict.fromkeys(("mnist_mlp", "lstm_text", "resnet", "ncf", "svm"), _P),
       **dict.fromkeys(("linear_regression", "mnist_cnn", "transformer_lm", "conv1d_audio"), _T)}.items()),
    *(_unseen(workload, framework, late=True) for workload, framework in
      (("linear_regression", _T), ("mnist_mlp", _P), ("mnist_cnn", _P), ("transformer_lm", _T), ("resnet", _P))),
    *(_late(workload, framework, "no update every 100th step", "% 100", 110)
      for workload, framework in (("linear_regression", _P), ("mnist_mlp", _P), ("ncf", _T), ("transformer_lm", _P))),
)  # fmt: skip

# Two further sizes of each network, or of what trains it where it has one size alone.
SIZES: dict[str, tuple[dict[str, int | float], ...]] = {
    "mnist_mlp": ({"width": 7}, {"width": 300}),
    "lstm_text": ({"length": 9, "width": 20}, {"length": 40, "width": 64}),
    "transformer_lm": ({"layers": 1, "heads": 3, "width": 96}, {"layers": 4, "heads": 4, "width": 128}),
    "ncf": ({"users": 333, "items": 777, "factors": 3}, {"users": 2000, "items": 1500, "factors": 32}),
    "resnet": ({"depth": 14}, {"depth": 20}),
    "mnist_cnn": ({"learning_rate": 0.1}, {"learning_rate": 0.005, "momentum": 0.5}),
    "conv1d_audio": ({"learning_rate": 0.0005}, {"learning_rate": 0.01}),
}
RESIZED = (
    "ε", "momentum", "dropped bias", "padding", "padding on one side", "padding that keeps every shape",
    "what a norm keeps for what is new", "Keras' own ε of a norm", "a convolution turned round",
    "no update from the 60th step on", "no update every 100th step", "no update inside slices",
    "no update inside slices from the 60th step on",
)  # fmt: skip
_HALF = Mutation(
    workload="transformer_lm", framework=_T, kind="a constant through float32",
    old="    attention._inverse_sqrt_key_dim = 1 / np.sqrt(np.float64(width // heads))\n", new="",
    cause="float64 gradients",
)  # fmt: skip
FURTHER: tuple[Mutation, ...] = (
    *(replace(one, given=tuple(given.items()))
      for one in BASE if one.kind in RESIZED for given in SIZES.get(one.workload, ())),
    *(replace(_HALF, given=tuple(given.items())) for given in ({"heads": 3, "width": 96}, {"heads": 4, "width": 128})),
)  # fmt: skip
MUTATIONS = (*BASE, *FURTHER)


def rounds() -> list[list[Mutation]]:
    """Each round one tree: of a phase, a workload at most once, and alone what all workloads share.

    Of those at the defaults all but those that come late, which a few seconds of a slow step do not reach.
    """
    found: list[list[Mutation]] = []
    for mutation in (one for one in BASE if not one.late):
        others = [one for one in found if not one[0].file and one[0].phase == mutation.phase]
        free = next((one for one in others if mutation.workload not in {other.workload for other in one}), None)
        if free is None or mutation.file:
            found.append([mutation])
        else:
            free.append(mutation)
    return found
