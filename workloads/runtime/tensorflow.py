"""TensorFlow: threads, flags, versions; effective values, as the framework reports them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from workloads.contract import Cell, Unsupported
from workloads.cuda import cudnn_version, kernels
from workloads.runtime import DTYPES

_functions: list[Any] = []


def prepare(cell: Cell) -> None:
    """Set what TensorFlow reads from the environment at import."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if cell.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def configure(cell: Cell) -> None:
    """Set thread pools, TF32 and memory growth. Raises Unsupported: no such device, too old a Keras."""
    import keras
    import tensorflow as tf

    require_keras_3(tf.__version__, keras.__version__)
    tf.config.threading.set_intra_op_parallelism_threads(cell.threads)
    tf.config.threading.set_inter_op_parallelism_threads(cell.threads)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    gpus = tf.config.list_physical_devices("GPU")
    if cell.device == "cuda":
        if not gpus:
            raise Unsupported("tensorflow sees no CUDA device; choose device cpu")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)


def require_keras_3(tensorflow: str, keras: str) -> None:
    """The twins are written for Keras 3: an older one would fail at some call or other. Raises Unsupported."""
    if int(keras.partition(".")[0]) < 3:
        release = ".".join(keras.split(".")[:2])
        raise Unsupported(
            f"TensorFlow {tensorflow} comes with Keras {release}; the twins need Keras 3, so TensorFlow 2.16 or newer"
        )


def set_precision(precision: str) -> None:
    """Layers, their variables and an optimizer's constants, all made from now on, take this precision."""
    import keras

    keras.config.set_floatx(DTYPES[precision].__name__)
    keras.config.set_dtype_policy(DTYPES[precision].__name__)


def versions() -> dict[str, str]:
    """Versions of what computes; CUDA's and cuDNN's where they are part of the build."""
    import keras
    import tensorflow as tf

    own = {"tensorflow": tf.__version__, "keras": keras.__version__}
    if tf.test.is_built_with_cuda():
        own |= {"cuda": tf.sysconfig.get_build_info()["cuda_version"], "cudnn": cudnn_version()}
    return {name: version for name, version in own.items() if version}


def effective() -> dict[str, Any]:
    """Threads and flags as TensorFlow reports them after start."""
    import tensorflow as tf

    return {
        "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
        "onednn": os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1",
        "tf32": tf.config.experimental.tensor_float_32_execution_enabled(),
        "flush_denormals": True,  # TensorFlow's pool threads always do
        "devices": [device.name for device in tf.config.list_logical_devices()],
        "build_cuda": tf.test.is_built_with_cuda(),
        **_on_gpu(),
    }


def _on_gpu() -> dict[str, str]:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return {}
    capability = tf.config.experimental.get_device_details(gpus[0])["compute_capability"]
    return {"gpu_kernels": kernels(tf.sysconfig.get_build_info()["cuda_compute_capabilities"], capability)}


def device_peak_memory_bytes() -> int | None:
    """The GPU allocator's peak; None on a CPU, where there is no such counter."""
    import tensorflow as tf

    if not tf.config.list_logical_devices("GPU"):
        return None
    return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])


def wrap(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """The function as the mode runs it: eager as it is, graph by tf.function, compiled by XLA."""
    import tensorflow as tf

    if mode == "eager":
        return function
    wrapped = tf.function(function, jit_compile=mode == "compiled")
    _functions.append(wrapped)
    return wrapped  # type: ignore[no-any-return]


def compilations() -> int:
    """Traces so far; a count that rises while timed is a retrace."""
    return sum(function.experimental_get_tracing_count() for function in _functions)
