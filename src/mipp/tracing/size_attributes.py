"""Integers that a module holds: its attributes, and those in configs, dicts, lists or tuples of it.

A place is written as code has it: ``num_heads``, ``config.n_head``, ``sizes['heads']``,
``shape[0]``. What is changed is changed in copies, so that a config that many modules share can say
another number in each of them.
"""

import copy
import re
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)

MAX_DEPTH = 3
"""So deep a config may lie in another."""

Change = Callable[[str, int], int]
"""What becomes of the integer at a place."""


def integers(module: nn.Module) -> dict[str, int]:
    """All integers that a module holds, by place."""
    found: dict[str, int] = {}

    def note(place: str, value: int) -> int:
        found[place] = value
        return value

    change_all(module, note)
    return found


def put(module: nn.Module, place: str, value: int) -> None:
    """Sets the integer at one place of a module, and of no other that shares what it lies in."""
    root = re.split(r"[.\[]", place, maxsplit=1)[0]
    held = vars(module)[root]
    vars(module)[root] = _changed(held, root, lambda at, old: value if at == place else old)


def change_all(module: nn.Module, change: Change) -> None:
    """Sets every integer that a module holds to what ``change`` makes of it."""
    for name, held in list(vars(module).items()):
        if type(held) is int or not name.startswith("_"):
            vars(module)[name] = _changed(held, name, change)


def last_name(place: str) -> str:
    """``config.heads[1]`` -> ``heads``."""
    return str(re.findall(r"[A-Za-z_]\w*", place)[-1])


def _changed(held: Any, place: str, change: Change, depth: int = 0) -> Any:
    """The same object where nothing in it changes, else a copy."""
    if type(held) is int:
        return change(place, held)
    items = _items(held, place)
    if depth > MAX_DEPTH or not items:
        return held
    new = {key: _changed(value, at, change, depth + 1) for key, (at, value) in items.items()}
    if all(new[key] is value for key, (_, value) in items.items()):
        return held
    if isinstance(held, tuple):
        made = list(new.values())
        return type(held)(*made) if hasattr(held, "_fields") else tuple(made)
    changed = copy.copy(held)
    if isinstance(held, list):
        changed[:] = new.values()
    else:
        (changed if isinstance(held, dict) else vars(changed)).update(new)
    return changed


def _items(held: Any, place: str) -> dict[Any, tuple[str, Any]]:
    """What an object holds, with places: none for what is more than plain data."""
    if type(held) is list or (isinstance(held, tuple) and type(held).__module__ != "torch"):
        found = {index: (f"{place}[{index}]", value) for index, value in enumerate(held)}
    elif type(held) is dict:
        found = {key: (f"{place}[{key!r}]", value) for key, value in held.items()}
    elif isinstance(held, type | Enum | nn.Module | Tensor) or callable(held):
        return {}
    else:
        found = {
            key: (f"{place}.{key}", value) for key, value in getattr(held, "__dict__", {}).items()
        }
    # what holds modules or tensors is no config: a copy of it might be another thing
    live = any(isinstance(value, nn.Module | Tensor) for _, value in found.values())
    return {} if live else found


def forget_cached(model: Module) -> Module:
    """Empties, in place, the dicts of tensors that modules keep between forward passes.

    They are known by their name and their keys, which are devices: timm's models with relative
    positions keep in ``attention_bias_cache`` what they have made of a parameter, for each device,
    in the size that it had.
    """
    for module in model.modules():
        for name, value in vars(module).items():
            kept = "cache" in name and isinstance(value, dict)
            if kept and all(_is_device(k) and isinstance(t, Tensor) for k, t in value.items()):
                value.clear()
    return model


def _is_device(key: object) -> bool:
    if isinstance(key, str):
        return bool(re.fullmatch(r"(cpu|cuda|mps|xpu|meta)(:\d+)?", key))
    return isinstance(key, torch.device)
