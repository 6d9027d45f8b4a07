"""Parsers of the publishers' files: IDX (MNIST) and the binary version of CIFAR.

Sizes are checked before anything is believed; a file that does not fit is a ``FileError``.
"""

import gzip
import zlib
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mipp.errors import FileError

CIFAR_SHAPE = (3, 32, 32)
"""Channels, height and width of a CIFAR image; its record is the label bytes, then the pixels."""


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Bytes of a gzipped IDX file, of exactly ``shape``.

    Args:
        path: file, e.g. ``train-images-idx3-ubyte.gz``.
        shape: what the header must say, e.g. ``(60000, 28, 28)``.

    Raises:
        FileError: if the file is missing, damaged, cut short or of another shape.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, f"it cannot be read as gzip ({error})") from error
    # two zero bytes, type 8 = unsigned byte, number of dimensions, then each as big-endian uint32
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, dtype=">u4").tobytes()
    if content[: len(header)] != header:
        raise _damaged(path, f"its header is not that of unsigned bytes of shape {shape}")
    body = content[len(header) :]
    if len(body) != prod(shape):
        raise _damaged(path, f"it has {len(body)} bytes of data, expected {prod(shape)}")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def read_cifar(
    path: Path, n_records: int, label_bytes: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images ``(n_records, 3, 32, 32)`` and labels ``(n_records,)`` of one CIFAR binary file.

    Args:
        path: file, e.g. ``data_batch_1.bin``.
        n_records: how many images it must have.
        label_bytes: 1 for CIFAR-10; 2 for CIFAR-100, whose second is the fine label.

    Raises:
        FileError: if the file is missing or its size is not that of ``n_records`` images.
    """
    expected = n_records * (label_bytes + prod(CIFAR_SHAPE))
    try:
        size = path.stat().st_size
        if size != expected:
            raise _damaged(path, f"it has {size} bytes, expected {expected}")
        records = np.fromfile(path, dtype=np.uint8).reshape(n_records, -1)
    except OSError as error:
        raise _damaged(path, f"it cannot be read ({error})") from error
    images = records[:, label_bytes:].reshape(n_records, *CIFAR_SHAPE)
    return images, records[:, label_bytes - 1].astype(np.int64)


def _damaged(path: Path, what: str) -> FileError:
    return FileError(
        f"{path} is not the file that its publisher ships: {what}. "
        "Remove it, and it is fetched again on the next load."
    )
