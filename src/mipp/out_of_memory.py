"""Memory that is not needed any more, and errors for memory that ran out: where, and what helps."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mipp.errors import MippError

_SIGNS = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch's allocators say, in a plain RuntimeError on the CPU."""


def give_back() -> None:
    """Gives memory that has been freed back to the system, where the C library (glibc) keeps it.

    Threads have pools of their own, so that what one has freed is otherwise lost to the next.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


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
