"""Which numbers and lists of a model's config count the blocks of a list.

It is the class that says so: a number of the config that is the length of the list is made smaller
by one, lists for each layer lose an entry, and what the class builds from that on the meta device
has to have the names of the model without the block. No list of classes is kept here.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mipp.surgery.block_names import RemovedBlock
from mipp.surgery.blocks import leaves_of, lower, without_blocks

_FOR_EACH = ("layer", "block")
"""Words in the names of lists that have an entry for each block."""


def built(kind: type[nn.Module], config: Any) -> nn.Module:
    """A model of the class without values, its shapes and numbers, from the config as it is read.

    Reading it checks it, too.
    """
    read = type(config).from_dict(config.to_dict())
    with torch.device("meta"):
        return kind(read)


def counted_places(model: nn.Module, block: str) -> tuple[str, ...]:
    """Places in configs that count a block, see `RemovedBlock.counted`; empty if none does.

    Args:
        model: The model.
        block: Path of a block in a list.
    """
    path = next((p for p in _paths(block) if _has_config(model.get_submodule(p))), None)
    if path is None or leaves_of(model, block) != "nothing":
        return ()
    owner: Any = model.get_submodule(path)
    inner = block.removeprefix(path).lstrip(".")
    container, _, number = inner.rpartition(".")
    siblings = len(owner.get_submodule(container))
    short = without_blocks(owner, [RemovedBlock(inner, "nothing", siblings)], shared=True)
    wanted = set(short.state_dict())
    for places in _candidates(owner.config, siblings):
        changed = _with(owner.config, places, int(number))
        try:
            names = set(built(type(owner), changed).state_dict())
        except Exception:  # noqa: BLE001, S112 - classes refuse numbers in any way
            continue
        if names == wanted:
            return tuple(f"{path}:{place}" for place in places)
    return ()


def _paths(block: str) -> Iterator[str]:
    """The modules that a block lies in, outermost first."""
    yield ""
    parts = block.split(".")
    for depth in range(1, len(parts)):
        yield ".".join(parts[:depth])


def _has_config(module: nn.Module) -> bool:
    config: Any = vars(module).get("config")
    return hasattr(config, "to_dict") and hasattr(type(config), "from_dict")


def _candidates(config: Any, length: int, path: str = "") -> Iterator[tuple[str, ...]]:
    """A number that may count the list, with the lists beside it that have as many entries."""
    values = {name: value for name, value in vars(config).items() if not name.startswith("_")}
    lists = [name for name, value in values.items()
             if isinstance(value, list | tuple) and len(value) == length
             and any(word in name for word in _FOR_EACH)]  # fmt: skip
    beside = tuple(f"{path}{name}" for name in lists)
    for name, value in values.items():
        if type(value) is int and value == length:
            yield (f"{path}{name}", *beside)
        if isinstance(value, list):
            yield from ((f"{path}{name}.{n}",) for n, each in enumerate(value)
                        if type(each) is int and each == length)  # fmt: skip
    for name in getattr(config, "sub_configs", {}):
        inner = getattr(config, name, None)
        if inner is not None:
            yield from _candidates(inner, length, f"{path}{name}.")


def _with(config: Any, places: tuple[str, ...], number: int) -> Any:
    """A copy of a config that counts one block less."""
    changed = copy.deepcopy(config)
    for place in places:
        *path, last = place.split(".")
        holder = changed
        for name in path:
            holder = getattr(holder, name)
        lower(holder, last, {number})
    return changed
