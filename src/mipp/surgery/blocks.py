"""Models without whole blocks: taking them out, and the record of which are gone.

A block that stands in an `nn.ModuleList` or `nn.Sequential` is taken out of it. Those behind it
move up, unless their names are no numbers; indices of layers that they hold (``layer_idx``, for
caches), what holds the list and counts it (``num_layers``), and numbers and lists of configs
follow. Any other block becomes an `nn.Identity`.

Blocks are named as in the full-size model. Units that were pruned, before or after, are named as in
the model that has lost the blocks.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from torch import nn

from mipp.errors import InputError
from mipp.surgery.block_names import Leaves, RemovedBlock, is_under, new_name, original_name
from mipp.surgery.kept_record import recorded_axes, recorded_sizes, write_record
from mipp.surgery.tensors import deep_copy, named_tensors

Module = TypeVar("Module", bound=nn.Module)
BLOCKS = "_mipp_blocks"
"""Attribute of a model that holds its `RemovedBlock` records, for `mipp.save`."""
_INDEX = re.compile(r"_?(layer|block)_?(idx|index|id|num|number)")
"""Attributes with a block's own place among the others."""
_COUNT = re.compile(r"_?(((num|n)_?)([a-z]+_)?(layer|block)s|depth)")
"""Attributes with the number of blocks in a list."""


def leaves_of(model: nn.Module, name: str) -> Leaves:
    """What a block leaves when it is gone."""
    container = model.get_submodule(name.rpartition(".")[0])
    if not isinstance(container, nn.ModuleList | nn.Sequential):
        return "identity"
    numbers = [str(n) for n in range(len(container))]
    return "nothing" if list(container._modules) == numbers else "gap"  # noqa: SLF001


def without_blocks(
    model: Module, blocks: Sequence[RemovedBlock], *, shared: bool = False
) -> Module:
    """A copy of the model without some blocks; the model itself is not changed.

    Args:
        model: The model.
        blocks: Those to be taken out, by their names in this model.
        shared: Whether the copy has the parameters and buffers of the model, not copies of them.

    Raises:
        InputError: There is no such block, or its list has another length.
    """
    check_blocks(model, blocks)
    gone = [model.get_submodule(block.name) for block in blocks]
    inside = [model] if shared else gone
    stand_ins = {id(t): t for module in inside for t in named_tensors(module).values()}
    small = deep_copy(model, stand_ins)
    take_out(small, blocks)
    return small


def check_blocks(model: nn.Module, blocks: Sequence[RemovedBlock]) -> None:
    """Raises `InputError` unless the model has the blocks, in lists as long as recorded."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for block in blocks:
        container = modules.get(block.container)
        found = len(container) if isinstance(container, nn.ModuleList | nn.Sequential) else 0
        if block.name not in modules or (block.leaves != "identity" and found != block.siblings):
            raise InputError(
                f"block {block.name!r} was expected, one of {block.siblings or 1}, and "
                f"{type(model).__name__} has {found if block.name in modules else 'none of it'}. "
                "Was the plan or the file made for another model?"
            )


def take_out(model: nn.Module, blocks: Sequence[RemovedBlock]) -> None:
    """Takes blocks out of a model, in place, and records it; see `without_blocks`."""
    axes, sizes, before = recorded_axes(model), recorded_sizes(model), recorded_blocks(model)
    _count(model, blocks)
    for block in blocks:
        if block.leaves == "identity":
            here = model.get_submodule(block.name)
            setattr(model.get_submodule(block.container), block.name.rpartition(".")[2],
                    nn.Identity().train(here.training))  # fmt: skip
    # inner lists first, while the names of the outer ones are as they were
    for path in sorted(_lists(blocks), key=lambda p: -p.count(".")):
        mine = [block for block in blocks if block.container == path]
        if mine[0].leaves == "nothing" and path:
            _lower_counts(model.get_submodule(path.rpartition(".")[0]), mine)
        _shorten(model.get_submodule(path), mine)
    lengths = {b.container: b.siblings for b in before if b.siblings}

    def in_full(block: RemovedBlock) -> RemovedBlock:
        name = original_name(block.name, before)
        siblings = lengths.get(name.rpartition(".")[0], block.siblings)
        return replace(block, name=name, siblings=siblings)

    both = sorted([*before, *map(in_full, blocks)])
    if axes or sizes:
        named = [(axis, new_name(axis.tensor, blocks)) for axis in axes]
        counted = [(size, new_name(size.module, blocks)) for size in sizes]
        write_record(
            model,
            tuple(replace(axis, tensor=name) for axis, name in named if name is not None),
            tuple(replace(size, module=name) for size, name in counted if name is not None),
        )
    note_blocks(model, both)


def _lists(blocks: Sequence[RemovedBlock]) -> set[str]:
    return {block.container for block in blocks if block.leaves != "identity"}


def _shorten(container: nn.Module, blocks: Sequence[RemovedBlock]) -> None:
    """Takes blocks out of a list."""
    gone = {block.name.rpartition(".")[2] for block in blocks}
    moves = blocks[0].leaves == "nothing"
    left = [(key, child) for key, child in container._modules.items() if key not in gone]  # noqa: SLF001
    container._modules.clear()  # noqa: SLF001
    for place, (key, child) in enumerate(left):
        container._modules[str(place) if moves else key] = child  # noqa: SLF001
        if moves and child is not None:
            _renumber(child, int(key), place)


def _lower_counts(owner: nn.Module, blocks: Sequence[RemovedBlock]) -> None:
    """Lets the attributes that count a list follow; of two lists as long it could be either."""
    length = blocks[0].siblings
    lists = [m for m in owner.children() if isinstance(m, nn.ModuleList | nn.Sequential)]
    if sum(len(each) == length for each in lists) == 1:
        for name, value in list(vars(owner).items()):
            if type(value) is int and value == length and _COUNT.fullmatch(name):
                setattr(owner, name, value - len(blocks))


def _renumber(block: nn.Module, before: int, after: int) -> None:
    """Sets the index of a block, counted from 0 or from 1, in all its modules."""
    for module in block.modules():
        for name, value in list(vars(module).items()):
            if type(value) is int and _INDEX.fullmatch(name) and value - before in (0, 1):
                setattr(module, name, value - before + after)


def _count(model: nn.Module, blocks: Sequence[RemovedBlock]) -> None:
    """Lets the configs say how many blocks are left."""
    # each holder once, however many modules share it, and all of its entries at once
    changed: dict[tuple[int, str], tuple[Any, str, set[int]]] = {}
    for block in blocks:
        for place in block.counted:
            path, _, inner = place.partition(":")
            length = len(model.get_submodule(block.container)._modules)  # noqa: SLF001
            for config in _configs(model, path, block.container):
                holder, last = _holder(config, inner)
                if holder is not None and _length(holder, last) == length:
                    own = changed.setdefault((id(holder), last), (holder, last, set()))
                    own[2].add(int(block.name.rpartition(".")[2]))
    for holder, last, gone in changed.values():
        lower(holder, last, gone)


def _length(holder: Any, last: str) -> object:
    """The number in a place of a config, or how long the list there is."""
    value = holder[int(last)] if isinstance(holder, list) else getattr(holder, last)
    return len(value) if isinstance(value, list | tuple) else value


def lower(holder: Any, last: str, gone: set[int]) -> None:
    """Makes a number smaller, or a list shorter."""
    value = holder[int(last)] if isinstance(holder, list) else getattr(holder, last)
    if isinstance(value, list | tuple):
        value = type(value)(entry for n, entry in enumerate(value) if n not in gone)
    else:
        value -= len(gone)
    if isinstance(holder, list):
        holder[int(last)] = value
    else:
        setattr(holder, last, value)


def _configs(model: nn.Module, owner: str, container: str) -> list[Any]:
    """The configs of a module, of what leads from it to a list, and of what is in the list."""
    on_the_way = (
        module
        for path, module in model.named_modules()
        if is_under(path, owner) and (is_under(container, path) or is_under(path, container))
    )
    held = (vars(module).get("config") for module in on_the_way)
    return list({id(config): config for config in held if config is not None}.values())


def _holder(config: Any, inner: str) -> tuple[Any, str]:
    """What holds a place of a config, None where there is no such place; and its name there."""
    *path, last = inner.split(".")
    for name in path:
        config = getattr(config, name, None)
    known = last.isdecimal() if isinstance(config, list) else hasattr(config, last)
    return config if known else None, last


# ---- records on models


def recorded_blocks(model: nn.Module) -> tuple[RemovedBlock, ...]:
    """The blocks that were taken out of the model, or of modules inside it; empty if none was."""
    found: list[RemovedBlock] = []
    taken: list[str] = []
    for path, module in model.named_modules():
        if BLOCKS in vars(module) and not any(is_under(path, outer) for outer in taken):
            taken.append(path)
            found += _lifted(vars(module)[BLOCKS], path)
    return tuple(sorted(found))


def note_blocks(model: nn.Module, blocks: Sequence[RemovedBlock]) -> None:
    """Records the blocks on the model, and on each module inside it those of its own."""
    for path, module in model.named_modules():
        vars(module).pop(BLOCKS, None)
        own = original_name(path, blocks) if path else ""
        mine = tuple(_lowered(blocks, own)) if own else tuple(blocks)
        if mine:
            setattr(module, BLOCKS, mine)


def _lifted(blocks: Sequence[RemovedBlock], path: str) -> Iterator[RemovedBlock]:
    """Records of a module inside a model, as seen from the model."""
    for block in blocks:
        counted = tuple(f"{path}.{place}".lstrip(".").replace(".:", ":") for place in block.counted)
        yield replace(block, name=f"{path}.{block.name}".lstrip("."), counted=counted)


def _lowered(blocks: Sequence[RemovedBlock], path: str) -> Iterator[RemovedBlock]:
    """Records of a model, as seen from a module inside it."""
    for block in blocks:
        if block.name.startswith(f"{path}."):
            inside = (place.removeprefix(path).lstrip(".") for place in block.counted
                      if is_under(place.partition(":")[0], path))  # fmt: skip
            yield replace(block, name=block.name.removeprefix(f"{path}."), counted=tuple(inside))


def fit_blocks(model: Module, blocks: Sequence[RemovedBlock]) -> Module:
    """The model without the blocks: itself if they are gone, else a copy that shares its tensors.

    Raises:
        InputError: The model has neither all of them nor none.
    """
    if not blocks or recorded_blocks(model) == tuple(sorted(blocks)) or _is_short(model, blocks):
        return model
    return without_blocks(model, blocks, shared=True)


def _is_short(model: nn.Module, blocks: Sequence[RemovedBlock]) -> bool:
    """Whether a model has been built without the blocks, as from a config that counts fewer."""
    modules = dict(model.named_modules(remove_duplicate=False))
    gone = Counter(block.container for block in blocks if block.leaves != "identity")

    def short(block: RemovedBlock) -> bool:
        path = new_name(block.container, blocks)
        container = modules.get(block.container if path is None else path)
        if block.leaves == "identity":
            return isinstance(getattr(container, block.name.rpartition(".")[2], None), nn.Identity)
        left = block.siblings - gone[block.container]
        return isinstance(container, nn.ModuleList | nn.Sequential) and len(container) == left

    return all(short(block) for block in blocks)
