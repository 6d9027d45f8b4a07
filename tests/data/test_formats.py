"""Parsers, on small files written in the publishers' layouts."""

import gzip
import struct

import numpy as np
import pytest

from mipp.data.formats import read_cifar, read_idx
from mipp.errors import FileError


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)


def write_idx(path, array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def write_cifar(path, images, *labels):
    records = [np.stack(labels, 1), images.reshape(len(images), -1)]
    path.write_bytes(np.concatenate(records, 1).astype(np.uint8).tobytes())


def test_idx_round_trip(tmp_path, pixels):
    write_idx(tmp_path / "images.gz", pixels)
    assert np.array_equal(read_idx(tmp_path / "images.gz", (6, 28, 28)), pixels)


def test_idx_of_another_shape_is_refused(tmp_path, pixels):
    write_idx(tmp_path / "images.gz", pixels)
    with pytest.raises(FileError, match=r"images\.gz.*header is not .* shape \(7, 28, 28\)"):
        read_idx(tmp_path / "images.gz", (7, 28, 28))


def test_idx_with_too_little_data_is_refused(tmp_path, pixels):
    header = struct.pack(">HBB3I", 0, 8, 3, 6, 28, 28)
    (tmp_path / "images.gz").write_bytes(gzip.compress(header + pixels.tobytes()[:-5]))
    with pytest.raises(FileError, match=r"has 4699 bytes of data, expected 4704"):
        read_idx(tmp_path / "images.gz", (6, 28, 28))


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b[:30] + b"\0" * 9 + b[39:]])
def test_damaged_gzip_is_refused(tmp_path, pixels, damage):
    path = tmp_path / "images.gz"
    write_idx(path, pixels)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FileError, match=r"images\.gz .* cannot be read as gzip"):
        read_idx(path, (6, 28, 28))


def test_cifar10_record_is_a_label_and_three_planes(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    write_cifar(tmp_path / "batch.bin", images, [3, 1, 0, 9])
    read, labels = read_cifar(tmp_path / "batch.bin", 4, label_bytes=1)
    assert np.array_equal(read, images)
    assert labels.tolist() == [3, 1, 0, 9]


def test_cifar100_uses_the_fine_label(tmp_path):
    images = np.zeros((2, 3, 32, 32), dtype=np.uint8)
    write_cifar(tmp_path / "train.bin", images, [5, 6], [77, 42])
    assert read_cifar(tmp_path / "train.bin", 2, label_bytes=2)[1].tolist() == [77, 42]


def test_truncated_cifar_is_refused(tmp_path):
    (tmp_path / "batch.bin").write_bytes(bytes(3073 * 4 - 1))
    with pytest.raises(FileError, match=r"batch\.bin .* has 12291 bytes, expected 12292.*Remove"):
        read_cifar(tmp_path / "batch.bin", 4, label_bytes=1)


def test_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(FileError, match=r"none\.bin"):
        read_cifar(tmp_path / "none.bin", 1, label_bytes=1)
