"""The config of a pruned Hugging Face model: which of its numbers can follow the widths.

What a class builds from a config is compared with the pruned model, on the meta device: shapes of
the state, and the numbers that modules hold. Numbers of the config are tried, one, two or three at
once, wherever that brings the built model nearer to the pruned one and changes nothing else. So it
is the class that says which number means what, and no list of classes is kept here.
"""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn

from mipp.surgery import recorded_blocks, recorded_sizes
from mipp.surgery.block_configs import built
from mipp.surgery.tensors import named_tensors
from mipp.surgery.unread import names_read
from mipp.tracing.size_attributes import integers, is_count

PASSED_ON = frozenset({"head_dim", "is_causal", "num_key_value_groups", "scaling"})
"""Attributes that attention kernels read from the module that they are given."""
MOST_AT_ONCE = 3
"""Numbers that are changed at once: of heads, of their keys and values, and features of a head."""
MOST_VALUES = 3
"""A number that could become one of more than these is that of layers of several widths."""

Place = tuple[str, str | int]
"""Of a length: name of the tensor, dimension. Of a number: path of the module, place in it."""
Difference = tuple[Any, Any]
"""In the model that the config builds, and in the pruned one; None where there is none."""
Differences = dict[Place, Difference]


@dataclass(frozen=True)
class Change:
    """A number of a config.

    Attributes:
        path: Names of the configs that lead to it, from the outermost one.
        name: Of the number.
        before: Its value; None where the config leaves it open.
        after: The value that follows the widths.
    """

    path: tuple[str, ...]
    name: str
    before: int | None
    after: int

    def __str__(self) -> str:
        before = "" if self.before is None else f"{self.before} -> "
        return f"{'.'.join((*self.path, self.name))} {before}{self.after}"


@dataclass(frozen=True)
class Followed:
    """A config that follows a pruned model as far as it can.

    Attributes:
        config: A copy; the model's own is left as it was.
        changes: The numbers that differ from those of the model's config.
        differences: What the config still does not say.
        tried: Numbers of heads that the class cannot be given.
        refusals: What the class said about numbers of heads that it does not take.
    """

    config: Any
    changes: tuple[Change, ...]
    differences: Mapping[Place, Difference]
    tried: tuple[Change, ...]
    refusals: tuple[str, ...]


def follow(small: nn.Module, config: Any) -> Followed:
    """The config with the widths of the pruned model, wherever all layers have the same.

    Args:
        small: The pruned model.
        config: That its class builds the whole model from.
    """
    kind, changes = type(small), list[Change]()
    refusals: dict[str, None] = {}
    current = copy.deepcopy(config)
    left = differences(small, built(kind, current))
    # numbers that were set by hand are no widths; a config does not say them either
    by_hand: set[Place] = {
        (owner, place)
        for (owner, place), (before, after) in left.items()
        if isinstance(place, str) and not (type(after) is int and 0 < after < before)
    }
    # a buffer of a kind of layer that is gone, which nothing reads any more
    state = small.state_dict() if recorded_blocks(small) else None
    by_hand |= {
        (owner, place)
        for (owner, place), (before, _) in left.items()
        if state is not None and before is None and owner not in state
    }
    left = _without(left, by_hand)
    for number in range(1, MOST_AT_ONCE + 1):
        progress = bool(left)
        while progress:
            progress = False
            choices = _candidates(current, left, small)
            if number > 1:
                choices = [one for one in choices if _about_heads(one.name)]
            for tried in itertools.combinations(choices, number):
                if len({(one.path, one.name) for one in tried}) < number:
                    continue
                changed = _with(current, tried)
                try:
                    found = _without(differences(small, built(kind, changed)), by_hand)
                except Exception as error:  # noqa: BLE001 - classes refuse numbers in any way
                    if all(_about_heads(one.name) for one in tried):
                        refusals[_said(error)] = None
                    continue
                if found.items() < left.items():
                    current, left, progress = changed, found, True
                    changes += tried
                    break
    heads = [one for one in _candidates(current, left, small) if _counts_heads(one.name)]
    return Followed(current, tuple(changes), left, tuple(heads), tuple(refusals) if left else ())


def _without(found: Differences, places: Set[Place]) -> Differences:
    return {place: both for place, both in found.items() if place not in places}


def unlike_blocks(small: nn.Module, config: Any, known: Set[Place]) -> Iterator[str]:
    """Attributes of layers that are not those of the model that the config builds, in words.

    What a layer holds may follow from its place in the list, such as whether its windows are
    shifted, so that another one comes out where one before it is gone.

    Args:
        small: A model that lost blocks.
        config: That follows it.
        known: Places whose difference is known.
    """
    modules = dict(built(type(small), config).named_modules(remove_duplicate=False))
    known = known | {(size.module, size.name) for size in recorded_sizes(small)}
    for path, module in small.named_modules(remove_duplicate=False):
        twin = modules.get(path)
        if twin is None or not path or type(module).__module__.startswith("torch.nn."):
            continue
        read = names_read(type(module)) | PASSED_ON
        for name, value in vars(module).items():
            other = vars(twin).get(name, value)
            if name not in read or (path, name) in known or other == value:
                continue
            # a width that no pass has read is left as it was in the pruned model
            widths = type(value) is int and is_count(name) and value > 0 and other > 0
            if type(value) in (bool, int, float, str) and not widths and name != "training":
                yield f"{path}.{name} is {value!r}, and {other!r} by the config"


def differences(small: nn.Module, whole: nn.Module) -> Differences:
    """Where the built model is not like the pruned one: shapes, and numbers that code reads."""
    mine, theirs = _lengths(small), _lengths(whole)
    found: Differences = {
        place: (theirs.get(place), mine.get(place))
        for place in mine.keys() | theirs.keys()
        if mine.get(place) != theirs.get(place)
    }
    modules = dict(whole.named_modules(remove_duplicate=False))
    for path, module in small.named_modules(remove_duplicate=False):
        kind, twin = type(module), modules.get(path)
        if twin is None or kind.__module__.startswith("torch.nn."):
            continue  # the numbers of torch's own layers follow from their weights
        for name in _compared(kind):  # type: ignore[arg-type] # mypy takes no class for hashable
            one, other = vars(twin).get(name), vars(module).get(name)
            if type(other) in (int, float) and one != other:
                found[path, name] = (one, other)
    for size in recorded_sizes(small):
        value = integers(modules[size.module]).get(size.name) if size.module in modules else None
        if value != size.after:
            found[size.module, size.name] = (value, size.after)
    return found


@cache
def _compared(kind: type[nn.Module]) -> frozenset[str]:
    """Names of the numbers that code of a class reads.

    A number of heads that no pass has read is left as it was in the pruned model, and that of the
    built one is the right one; those that were read are in the record.
    """
    return frozenset(name for name in names_read(kind) | PASSED_ON if not is_count(name))


def _lengths(model: nn.Module) -> dict[Place, int]:
    """Lengths of the dimensions of parameters and buffers, also of those that are not saved."""
    return {
        (name, dim): length
        for name, tensor in named_tensors(model).items()
        for dim, length in enumerate(tensor.shape or (1,))
    }


def _candidates(config: Any, left: Differences, small: nn.Module) -> list[Change]:
    """Numbers of the config that may have changed as something did that got smaller."""
    pairs = set(_pairs(left))
    found = []
    for path, owner in _configs(config):
        for name, value in vars(owner).items():
            if type(value) is int and not name.startswith("_"):
                afters = {after for before, after in pairs if before == value}
                if _about_heads(name):  # heads times features are one dimension of a weight
                    afters |= {
                        after * value // before
                        for before, after in pairs
                        if before % value == 0 and (after * value) % before == 0
                    }
                if len(afters) <= MOST_VALUES:
                    found += [Change(path, name, value, after) for after in sorted(afters)]
        held = (vars(module).get("head_dim") for module in small.modules())
        dims = {value for value in held if type(value) is int}
        open_ = [("head_dim", dims)] if getattr(owner, "head_dim", None) is None else []
        if vars(owner).get("n_inner", 0) is None:  # GPT-2 computes it from the hidden size
            open_.append(("n_inner", {after for _, after in pairs}))
        for name, values in open_:
            if len(values) <= MOST_VALUES:
                found += [Change(path, name, None, after) for after in sorted(values)]
    return found


def _pairs(left: Differences) -> Iterator[tuple[int, int]]:
    """Sizes before and after."""
    for before, after in left.values():
        if type(before) is int and type(after) is int and 0 < after < before:
            yield before, after


def _counts_heads(name: str) -> bool:
    return name.endswith(("head", "heads"))


def _about_heads(name: str) -> bool:
    return "head" in name or "kv" in name


def _configs(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A config, and those inside it."""
    yield path, config
    for name in getattr(config, "sub_configs", {}):
        inner = getattr(config, name, None)
        if inner is not None:
            yield from _configs(inner, (*path, name))


def _with(config: Any, changes: Sequence[Change]) -> Any:
    changed = copy.deepcopy(config)
    for change in changes:
        owner = changed
        for name in change.path:
            owner = getattr(owner, name)
        setattr(owner, change.name, change.after)
    return changed


def _said(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[-1].strip()
