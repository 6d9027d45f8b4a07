"""Tensors in files: reading plain weight files, and packing tensors with many zeros.

Nothing but tensors is unpickled. A packed tensor takes a bit for each entry, and the entries that
are not zero, bit for bit: a negative zero is an entry like any other.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mipp.errors import FileError, InputError

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
WRAPPERS = ("state_dict", "model")
"""Keys under which training scripts put the weights, beside the optimizer and the epoch."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a ``.safetensors`` file, or a ``.pt``, ``.pth``, ``.bin`` or ``.ckpt``.

    Pickled files are read with ``weights_only=True``: no code in them is run. The weights may be
    wrapped as ``{"state_dict": ...}`` or ``{"model": ...}``; a prefix ``module.`` that all names
    have (from DataParallel) is dropped.

    Raises:
        FileError: There is no such file, it is damaged, or holds something else.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        weights: Mapping[str, Any] = read_safetensors(path)[0]
    elif path.suffix in PICKLED:
        weights = _unpickled(path)
    else:
        raise FileError(
            f"{path} is of no known kind: expected a name that ends in .safetensors or one of "
            f"{', '.join(PICKLED)}, got {path.suffix!r}"
        )
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise FileError(
                f"{path} holds {type(value).__name__} under {name!r}: expected tensors only, as in "
                f"model.state_dict(). Save that alone."
            )
    prefixed = weights and all(name.startswith("module.") for name in weights)
    return {name.removeprefix("module.") if prefixed else name: t for name, t in weights.items()}


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a safetensors file; `FileError` where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except OSError as error:
        raise _unreadable(path, error) from error
    except SafetensorError as error:
        raise FileError(
            f"{path} is not a safetensors file, or is cut short: {error}. Restore it from a copy."
        ) from error


def _unpickled(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:
        # a damaged byte can lead to any of a dozen errors
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise FileError(
            f"{path} cannot be read as tensors only: {cause} If it holds a "
            f"whole pickled model, save model.state_dict() instead; if it is damaged, restore it "
            f"from a copy."
        ) from error
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise FileError(
            f"{path} holds {type(content).__name__}: expected tensors by name, as in "
            f"model.state_dict(). Save that instead."
        )
    return content


def _unreadable(path: Path, error: OSError) -> FileError:
    return FileError(f"{path} cannot be read: {error.strerror or error}. Check the path.")


# ---- tensors with many zeros

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
    """The tensors to store, and the shapes of those that take less room when they are packed.

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
    """The tensors that `pack` was given; `InputError` where parts do not belong together."""
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
