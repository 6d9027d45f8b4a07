"""Which features are one unit: positions of an image, channels, or every number on its own."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from mipp.errors import InputError
from mipp.records import KEPT, IntArray

Units = Literal["positions", "channels", "features"]
"""What goes as a whole. ``positions``: one position in all channels (of what has three dimensions
or more, dimension 1 is the channels). ``channels``: all positions of one channel. ``features``:
every number on its own. With two dimensions, (n_samples, n_features), all three are the same."""


def units_of(shape: Sequence[int], units: Any) -> IntArray:
    """The unit of each feature of an example of this shape.

    Parameters:
        shape: of one example, without the dimension of the examples.
        units: one of `Units`, or an array of that shape with the unit of each feature, from 0
            without gaps, -1 for a feature that is always given.

    Raises:
        InputError: an unknown name, or an array that does not fit.
    """
    size = tuple(shape)
    if isinstance(units, str):
        if units not in ("positions", "channels", "features"):
            raise InputError(
                f"units={units!r}; expected 'positions', 'channels', 'features' or an array of "
                f"shape {size}."
            )
        if len(size) < 2 or units == "features":
            return np.arange(int(np.prod(size)), dtype=np.int64).reshape(size)
        if units == "channels":
            return np.broadcast_to(np.arange(size[0]).reshape(-1, *[1] * (len(size) - 1)), size)
        return np.broadcast_to(np.arange(int(np.prod(size[1:]))).reshape(1, *size[1:]), size)
    unit = np.asarray(units)
    if unit.shape != size or unit.dtype.kind not in "iu":
        raise InputError(
            f"units has shape {unit.shape} and type {unit.dtype}; expected whole numbers of shape "
            f"{size}, one for each feature."
        )
    found = np.unique(unit[unit != KEPT])
    if len(found) == 0 or not np.array_equal(found, np.arange(len(found))):
        raise InputError(
            f"units names {found.tolist()[:10]}; expected every number from 0 to the last one, and "
            "-1 for features that are always given."
        )
    return unit.astype(np.int64)
