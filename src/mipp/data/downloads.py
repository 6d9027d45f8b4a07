"""Where data files lie, and how they get there: checked, and whole or not at all."""

import os
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from mipp.errors import FileError


@dataclass(frozen=True)
class Download:
    """One published file. ``members`` are what an archive is unpacked to; empty: not an archive."""

    url: str
    md5: str
    members: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that this gives."""
        return self.members or (self.url.rpartition("/")[2],)


def data_root(root: str | os.PathLike[str] | None) -> Path:
    """The folder that holds data sets: ``root``, else ``$MIPP_DATA``, else the user's cache."""
    if root is not None:
        return Path(root)
    if from_environment := os.environ.get("MIPP_DATA"):
        return Path(from_environment)
    return platformdirs.user_cache_path("mipp") / "data"


def ensure(folder: Path, downloads: Sequence[Download]) -> None:
    """Fetch what is not in ``folder`` yet.

    Raises:
        FileError: if files are missing and cannot be fetched, or are not those published.
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
    """Only the expected members, each a plain file: nothing else in an archive is ever written."""
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
