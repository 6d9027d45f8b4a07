"""Records on disk: whole lines, each item once, also with several runs and when one is killed."""

import hashlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Generic

from filelock import FileLock, Timeout

from lab import measurements, parents
from lab.measurements import AnyRecord, Record


class Store(Generic[AnyRecord]):
    """The records of one suite or experiment, ``FOLDER/NAME.jsonl``, and who is at work on what.

    What is open is held in lock files in the cache, which the system releases with the process, so
    that of a killed run nothing is left behind.
    """

    def __init__(self, folder: Path, name: str, model: type[AnyRecord] = Record) -> None:  # type: ignore[assignment]
        self.model: type[AnyRecord] = model
        self.path = (folder / f"{name}.jsonl").resolve()
        key = hashlib.sha256(str(self.path).encode()).hexdigest()[:16]
        self._locks = parents.cache().parent / "locks" / key
        self._claims: dict[str, FileLock] = {}

    def records(self) -> tuple[AnyRecord, ...]:
        """All of them, read now."""
        return measurements.read(self.path, self.model).records

    @property
    def torn(self) -> bool:
        """Whether the last line is half a record, left by a run that was killed."""
        return measurements.read(self.path, self.model).torn

    def ids(self) -> set[str]:
        """Items that are finished."""
        return {record.id for record in self.records()}

    def claim(self, item: str) -> bool:
        """Whether the item is ours to do now: nobody else is at it, and it is not finished."""
        self._locks.mkdir(parents=True, exist_ok=True)
        # a lock of this run must not be held to be another's: threads of dask may release it
        lock = FileLock(self._locks / f"{item}.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self._claims[item] = lock
        if item in self.ids():
            self.release(item)
            return False
        return True

    def release(self, item: str) -> None:
        """Gives the item back; it is not ours any more, finished or not."""
        lock = self._claims.pop(item)
        # whoever waits for the removed file finds the record in the next step
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()

    def release_all(self) -> None:
        """Gives back all that is not finished."""
        for item in list(self._claims):
            self.release(item)

    def append(self, records: Iterable[AnyRecord]) -> list[AnyRecord]:
        """Writes those whose items are not there yet, and tells which; on disk when it returns.

        What a killed process left of a last line goes.
        """
        self._locks.mkdir(parents=True, exist_ok=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._locks / "file.lock"):
            known = self.ids()
            new = [r for r in {r.id: r for r in records}.values() if r.id not in known]
            text = "".join(f"{record.line()}\n" for record in new)
            with self.path.open("ab") as file:
                if measurements.read(self.path, self.model).torn:
                    file.truncate(self.path.read_bytes().rfind(b"\n") + 1)
                elif not _ends(self.path):
                    text = "\n" + text
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        return new

    def remove(self, unwanted: Collection[str]) -> None:
        """Takes out the records of these items."""
        self._locks.mkdir(parents=True, exist_ok=True)
        with FileLock(self._locks / "file.lock"):
            left = [record for record in self.records() if record.id not in unwanted]
            if self.path.exists():
                self.path.write_text("".join(f"{record.line()}\n" for record in left))


def _ends(path: Path) -> bool:
    """Whether the last line has its end, which an editor may have taken."""
    content = path.read_bytes()
    return not content or content.endswith(b"\n")
