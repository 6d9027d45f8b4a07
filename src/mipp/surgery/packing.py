"""Tensors with many zeros in little room: a bit for each entry, and the entries that are not zero.

Bit for bit: a negative zero is an entry like any other.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mipp.errors import InputError

BITS = "::nonzero"
"""Behind the name of a packed tensor: where the bits are stored."""
_AS_INTEGERS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}


def pack(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    """What to store, and the shapes of those tensors that are smaller this way.

    A packed tensor is stored as its entries that are not zero, shape ``(n,)``, under its name, and
    the bits, eight to a byte, under its name and `BITS`.
    """
    stored: dict[str, Tensor] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors.items():
        integers = _AS_INTEGERS.get(tensor.dtype)
        if integers is None or tensor.dim() < 2 or f"{name}{BITS}" in tensors:
            stored[name] = tensor
            continue
        flat = tensor.reshape(-1)
        there = flat.view(integers) != 0
        if flat.numel() / 8 + int(there.sum()) * flat.element_size() >= tensor.nbytes:
            stored[name] = tensor
            continue
        stored[name] = flat[there]
        stored[f"{name}{BITS}"] = torch.from_numpy(np.packbits(there.numpy()))
        shapes[name] = tuple(tensor.shape)
    return stored, shapes


def unpack(stored: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The tensors again. Raises `InputError` where the parts of one do not belong together."""
    tensors = {n: t for n, t in stored.items() if n.removesuffix(BITS) not in shapes}
    for name, shape in shapes.items():
        values, bits = stored.get(name), stored.get(f"{name}{BITS}")
        size = int(np.prod(shape))
        fits = (
            values is not None
            and bits is not None
            and bits.dtype == torch.uint8
            and bits.shape == (-(-size // 8),)
            and values.dim() == 1
        )
        if not fits:
            raise InputError(f"the values or the bits of {name!r} are missing or of another size")
        assert values is not None
        assert bits is not None
        there = torch.from_numpy(np.unpackbits(bits.numpy(), count=size)).bool()
        if int(there.sum()) != len(values):
            raise InputError(f"{name!r} has {len(values)} values for {int(there.sum())} places")
        whole = torch.zeros(size, dtype=values.dtype)
        whole[there] = values
        tensors[name] = whole.reshape(tuple(shape))
    return tensors
