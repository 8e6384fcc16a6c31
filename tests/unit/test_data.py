"""The worker's reading of idx files, and what host and worker must agree on."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from bench.provision import mnist as data
from workloads.data import MNIST_FILES, mnist, read_idx


def idx(array: np.ndarray, *, magic: bytes = b"\0\0\x08") -> bytes:
    return magic + struct.pack(f">B{array.ndim}I", array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for split, count in (("train", 7), ("test", 3)):
        images, labels = MNIST_FILES[split]
        (tmp_path / images).write_bytes(idx(random.integers(0, 256, (count, 28, 28), dtype=np.uint8)))
        (tmp_path / labels).write_bytes(idx(random.integers(0, 10, count, dtype=np.uint8)))
    return tmp_path


def test_the_host_fetches_exactly_the_files_that_the_worker_reads() -> None:
    assert {file.name for file in data.FILES} == {name for names in MNIST_FILES.values() for name in names}


def test_every_file_is_held_by_a_whole_sha256_and_the_size_of_its_header() -> None:
    sizes = {file.name: file.size for file in data.FILES}
    assert sizes["train-images-idx3-ubyte"] == 16 + 60_000 * 28 * 28
    assert sizes["train-labels-idx1-ubyte"] == 8 + 60_000
    assert sizes["t10k-images-idx3-ubyte"] == 16 + 10_000 * 28 * 28
    assert sizes["t10k-labels-idx1-ubyte"] == 8 + 10_000
    assert all(len(bytes.fromhex(file.sha256)) == 32 for file in data.FILES)


@pytest.mark.parametrize(("split", "count"), [("train", 7), ("test", 3)])
def test_images_and_labels_come_as_written(folder: Path, split: str, count: int) -> None:
    images, labels = mnist(folder, split)
    assert images.shape == (count, 28, 28)
    assert images.dtype == np.uint8
    assert labels.shape == (count,)
    assert labels.dtype == np.int64
    raw = (folder / MNIST_FILES[split][0]).read_bytes()
    assert images[1, 2, 3] == raw[16 + 784 + 2 * 28 + 3]


def test_an_unknown_split_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="split 'validation' is unknown; choose train or test"):
        mnist(folder, "validation")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is no idx file"),
        (b"\x1f\x8b\x08\x00rest", "is no idx file"),
        (idx(np.zeros(3, np.uint8), magic=b"\0\0\x0d"), "is no idx file"),
        (b"\0\0\x08\x00", "is no idx file"),
        (b"\0\0\x08\x09" + bytes(36), "is no idx file"),
        (b"\0\0\x08\x03" + bytes(5), "ends inside its header, after 9 bytes"),
        (idx(np.zeros((2, 3), np.uint8))[:-1], "has 17 bytes where its header .* asks for 18"),
        (idx(np.zeros((2, 3), np.uint8)) + b"x", "has 19 bytes where its header .* asks for 18"),
        (b"\0\0\x08\x03" + b"\xff" * 12 + b"x", "asks for 79228162458924105385300197391"),
    ],
)
def test_a_file_that_is_not_exactly_an_idx_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_idx(path)


def test_an_absent_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file or directory; run `bench data fetch`"):
        mnist(tmp_path, "train")


@pytest.mark.parametrize(
    ("index", "array", "reason"),
    [
        (0, np.zeros((7, 28, 27), np.uint8), r"shape \(7, 28, 27\), not \(n, 28, 28\)"),
        (0, np.zeros(7, np.uint8), r"shape \(7,\)"),
        (0, np.zeros((6, 28, 28), np.uint8), "labels for 6 images"),
        (1, np.zeros((7, 1), np.uint8), "labels for 7 images"),
        (1, np.full(7, 10, np.uint8), "the label 10, which is no digit"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(folder: Path, index: int, array: np.ndarray, reason: str) -> None:
    (folder / MNIST_FILES["train"][index]).write_bytes(idx(array))
    with pytest.raises(ValueError, match=reason):
        mnist(folder, "train")
