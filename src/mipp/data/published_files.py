"""Files of published data sets: their folder, their download, and parsers of their formats.

Downloads are checked and atomic. Parsers check sizes first; a file that does not fit is a
`FileError`.
"""

import gzip
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import NDArray

from mipp.errors import FileError


@dataclass(frozen=True)
class Download:
    """One published file.

    Attributes:
        url: where it is.
        md5: its checksum.
        members: files to unpack from an archive; empty for a file that is no archive.
    """

    url: str
    md5: str
    members: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files after unpacking."""
        return self.members or (self.url.rpartition("/")[2],)


def data_root(root: str | os.PathLike[str] | None) -> Path:
    """The folder of all data sets: ``root``, else ``$MIPP_DATA``, else the user's cache."""
    if root is not None:
        return Path(root)
    if from_environment := os.environ.get("MIPP_DATA"):
        return Path(from_environment)
    return platformdirs.user_cache_path("mipp") / "data"


def ensure(folder: Path, downloads: Sequence[Download]) -> None:
    """Download the files that ``folder`` lacks.

    Raises:
        FileError: if files cannot be downloaded, or differ from the published ones.
    """
    for download in downloads:
        missing = [name for name in download.files if not (folder / name).is_file()]
        if not missing:
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _fetch(folder, download)
        # requests' errors are OSErrors; a checksum that does not fit is pooch's ValueError
        except (OSError, ValueError, KeyError, tarfile.TarError) as error:
            expected = [name for each in downloads for name in each.files]
            raise FileError(
                f"{folder} lacks {', '.join(missing)}; expected there: {', '.join(expected)}. "
                f"Fetching {download.url} failed: {_one_line(error)}. Go online, or put the "
                "files there yourself, or name the folder above it with root= or MIPP_DATA."
            ) from error


def _fetch(folder: Path, download: Download) -> None:
    import pooch  # noqa: PLC0415 - brings requests, and most data are there already

    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as scratch:
        name = download.url.rpartition("/")[2]
        fetched = Path(pooch.retrieve(download.url, f"md5:{download.md5}", name, scratch))
        if download.members:
            _unpack(fetched, folder.name, download.members)
        for file in download.files:
            (fetched.parent / file).replace(folder / file)


def _unpack(archive: Path, inside: str, members: Sequence[str]) -> None:
    """Write the expected members, each a plain file; nothing else in an archive is ever written."""
    with tarfile.open(archive) as tar:
        for name in members:
            content = tar.extractfile(f"{inside}/{name}")
            if content is None:
                raise FileError(
                    f"{inside}/{name} in {archive.name} is not a plain file; expected the "
                    "publisher's archive. Fetch it anew from a source that you trust."
                )
            with content, (archive.parent / name).open("wb") as target:
                shutil.copyfileobj(content, target)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:200] + " ..."


CIFAR_SHAPE = (3, 32, 32)
"""Channels, height and width of a CIFAR image; its record is the label bytes, then the pixels."""


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read the bytes of a gzipped IDX file (MNIST).

    Args:
        path: file, such as ``train-images-idx3-ubyte.gz``.
        shape: expected shape, such as ``(60000, 28, 28)``.

    Raises:
        FileError: if the file is missing, damaged, truncated or of another shape.
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
    """Read one file of the binary version of CIFAR.

    Args:
        path: file, such as ``data_batch_1.bin``.
        n_records: expected number of images.
        label_bytes: 1 for CIFAR-10; 2 for CIFAR-100, where the second is the fine label.

    Returns:
        Images of shape ``(n_records, 3, 32, 32)`` and labels of shape ``(n_records,)``.

    Raises:
        FileError: if the file is missing or has not the size of ``n_records`` images.
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
