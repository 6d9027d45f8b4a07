"""Memory that ran out, said with the layer that wanted it and with what needs less."""

from collections.abc import Iterator
from contextlib import contextmanager

from mipp.errors import MippError

_SIGNS = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch's allocators say, in a plain RuntimeError on the CPU."""


@contextmanager
def enough_memory(
    doing: str, layer: str, features: int, n_bytes: int, error: type[MippError], advice: str
) -> Iterator[None]:
    """Inside, a failed allocation becomes an ``error``; anything else passes as it is.

    ``doing``: such as ``measuring``. ``features``: that the largest layer there reads. ``n_bytes``:
    of what is held for it. ``advice``: what needs less.
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
    """Whether it is memory that ran out."""
    # that of a GPU is a RuntimeError of its own, whose text says so too
    return isinstance(cause, MemoryError) or any(sign in str(cause).lower() for sign in _SIGNS)
