"""The data sets as a worker sees them: a read-only folder of files whose digests the host has checked.

source  LeCun, Cortes, Burges: the MNIST database of handwritten digits; its idx format
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_UNSIGNED_BYTE = 0x08
_SIDE = 28


def mnist(folder: Path, split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The images and labels of one split, in the order of the files.

    split    train | test
    returns  images (n, 28, 28) uint8, labels (n,) int64 in 0…9
    raises   ValueError: one sentence, if a file is absent, is no idx file, or is too short or too long
    """
    if split not in MNIST_FILES:
        raise ValueError(f"split {split!r} is unknown; choose {' or '.join(MNIST_FILES)}")
    images_file, labels_file = (Path(folder) / name for name in MNIST_FILES[split])
    images, labels = read_idx(images_file), read_idx(labels_file)
    if images.ndim != 3 or images.shape[1:] != (_SIDE, _SIDE):
        raise ValueError(f"{images_file} holds an array of shape {images.shape}, not (n, 28, 28); fetch it again")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{labels_file} holds {labels.shape} labels for {len(images)} images; fetch both again")
    if labels.size and labels.max() > 9:
        raise ValueError(f"{labels_file} holds the label {labels.max()}, which is no digit; fetch it again")
    return images, labels.astype(np.int64)


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """The array of unsigned bytes in an idx file: magic 00 00 08 ndim, sizes as big-endian uint32, then the bytes.

    raises  ValueError: one sentence, if the file is absent or not exactly that
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; run `bench data fetch`") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _UNSIGNED_BYTE or not 1 <= data[3] <= 3:
        raise ValueError(f"{path} begins with {data[:4].hex(' ')!r} and is no idx file of bytes; fetch it again")
    header = 4 + 4 * data[3]
    if len(data) < header:
        raise ValueError(f"{path} ends inside its header, after {len(data)} bytes; fetch it again")
    shape = struct.unpack(f">{data[3]}I", data[4:header])
    expected = header + int(np.prod(shape, dtype=object))
    if len(data) != expected:
        raise ValueError(f"{path} has {len(data)} bytes where its header {shape} asks for {expected}; fetch it again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
