"""Files to be written: checked before long work, and whole or not at all."""

import tempfile
import uuid
from pathlib import Path

from mipp.errors import FileError, InputError


def check_target(
    path: Path | None,
    option: str,
    *,
    suffix: str,
    source: Path | None = None,
    force: bool = True,
) -> None:
    """Find out now whether ``path`` can be written.

    ``force``: a file that is there may be replaced.

    Raises:
        InputError: its name does not end in ``suffix``.
        FileError: its folder is missing or cannot be written to, it is a folder, it is ``source``,
            which the work starts from, or it is there already.
    """
    if path is None:
        return
    if path.suffix != suffix:
        raise InputError(f"{option} {path}: expected a name that ends in {suffix}.")
    if path.is_dir():
        raise FileError(f"{option} {path} is a folder; expected the name of a file.")
    if source is not None and path.resolve() == source.resolve():
        raise FileError(
            f"{option} {path} is the file that the weights come from, and would replace them. "
            "Give another name."
        )
    check_folder(path.parent, option)
    if path.exists() and not force:
        raise FileError(
            f"{option} {path}: there is such a file already. Give another name, or --force to "
            "replace it."
        )


def check_folder(folder: Path, option: str) -> None:
    """Raise `FileError` unless files can be made in ``folder``."""
    if not folder.is_dir():
        raise FileError(f"{option}: there is no folder {folder}. Make it first, or give another.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FileError(
            f"{option}: nothing can be written to {folder} ({error.strerror or error}). Change "
            "its permissions, or give another folder."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write beside the target, then put it in its place."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise FileError(
            f"{path} cannot be written: {error}. Check room and permissions."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
