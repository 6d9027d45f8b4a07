"""Reading plain weight files, without unpickling anything but tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mipp.errors import FileError

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
WRAPPERS = ("state_dict", "model")
"""Keys under which training scripts put the weights, beside the optimizer and the epoch."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a ``.safetensors`` file, or a ``.pt``, ``.pth``, ``.bin`` or ``.ckpt``.

    Pickled files are read with ``weights_only=True``: no code in them is run. The weights may be
    wrapped as ``{"state_dict": ...}`` or ``{"model": ...}``; a prefix ``module.`` that all names
    have (from DataParallel) is dropped.

    Raises `FileError` if there is no such file, it is damaged, or holds something else.
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
    """All tensors and the metadata of a safetensors file; raises `FileError` if it cannot."""
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
