"""Files that are written whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields an empty file beside ``path``, which takes its place once all is written.

    After an error or an interrupt it is removed, and ``path`` is as it was. Errors of the file
    system are those of Python; who calls this knows what the file is, and says so.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    partial.touch()
    try:
        usual = partial.stat().st_mode
        yield partial
        partial.chmod(usual)  # safetensors lets nobody else read what it writes
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
