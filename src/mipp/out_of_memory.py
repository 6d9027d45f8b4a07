"""Memory that is not needed any more, and errors for memory that ran out: where, and what helps."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mipp.errors import MippError

_SIGNS = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch's allocators say, in a plain RuntimeError on the CPU."""
_STATM = Path("/proc/self/statm")

MOST_FREED = 2 * 2**30
"""Bytes by which a process may grow before it gives back what has been freed."""


def give_back() -> None:
    """Gives memory that has been freed back to the system, where the C library (glibc) keeps it.

    Threads have pools of their own, so that what one has freed is otherwise lost to the next.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


class FreedMemory:
    """Gives freed memory back where a process has grown by more than it may.

    The C library keeps pieces of up to 32 MiB, of every thread and between what is still needed:
    batches that go on side by side would leave several times what they hold. Pages that went back
    are filled with zeros when they are used again, which takes time, so that it is done as rarely
    as the bound allows.

    Args:
        bound: bytes by which the process may grow from now on.
    """

    def __init__(self, bound: float = MOST_FREED) -> None:
        self._bound, self._start = bound, resident()
        self._next = self._start + bound

    def check(self) -> None:
        """Looks at the process; some microseconds where nothing is to be done."""
        if resident() > self._next:
            give_back()
            self._next = max(self._start + self._bound, resident() + self._bound / 8)


def resident() -> int:
    """Bytes of memory that the process has; 0 where the system does not tell."""
    if not _STATM.exists():
        return 0
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def enough_memory(
    doing: str, layer: str, features: int, n_bytes: int, error: type[MippError], advice: str
) -> Iterator[None]:
    """Turns a failed allocation inside the block into an ``error``; other exceptions pass.

    Args:
        doing: What needs the memory, such as ``measuring``.
        layer: The largest layer there.
        features: How many features it reads.
        n_bytes: What its second moments take.
        error: The class of the error.
        advice: What needs less.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as cause:
        if not is_short(cause):
            raise
        first = str(cause).strip().partition("\n")[0] or type(cause).__name__
        raise error(
            f"Memory ran out while {doing} {layer}, which reads {features:,} features: their "
            f"second moments alone take {n_bytes:,} bytes ({n_bytes / 2**30:.3g} GiB). {advice} "
            f"The allocator said: {first}"
        ) from cause


def is_short(cause: BaseException) -> bool:
    """Whether the cause is memory that ran out."""
    # that of a GPU is a RuntimeError of its own, whose text says so too
    return isinstance(cause, MemoryError) or any(sign in str(cause).lower() for sign in _SIGNS)
